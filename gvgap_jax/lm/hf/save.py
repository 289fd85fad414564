"""Parameters as a checkpoint that Hugging Face's packages open: config.json, safetensors, and the tokenizer's files."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gvgap_jax.lm.hf import architectures, tensors
from gvgap_jax.lm.hf.families import FAMILIES, Config
from gvgap_jax.lm.hf.load import BESIDE, CONFIG, Checkpoint
from gvgap_jax.lm.hf.stored import DTYPES, INDEX, WHOLE
from gvgap_jax.lm.hf.tensors import SCALAR_HEAD, Home
from gvgap_jax.lm.model import transformer
from gvgap_jax.runtime import processes
from gvgap_jax.runtime.packages import optional
from gvgap_jax.types import Params


def save(
    folder: str | Path,
    origin: Checkpoint | Config,
    params: Params,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model as transformers does, whole or not at all; ``AutoModelForCausalLM.from_pretrained`` opens it.

    Parameters with another head than the vocabulary's are an ``AutoModelForSequenceClassification``. It finds the last
    token of padded rows by ``pad_token_id``, which stays as the config has it. Every process of a run calls this, and
    the first one writes; a host holds one file at a time.

    Args:
      folder: new or empty.
      origin: the checkpoint that the parameters began as, whose tokenizer is copied; or a config for new ones, see
        ``architectures.config_of``.
      params: laid out anyhow.
      dtype: of the stored tensors, "float32", "bfloat16" or "float16"; None is each tensor's own in the checkpoint, so
        that loading and saving changes no byte. New tensors have the embedding's, or the parameters' own.
      shard_bytes: from which on there are several files, with an index.

    Raises:
      ValueError: the folder holds something, the parameters are of another shape than the origin, the dtype is none of
        these, or safetensors is not installed.
    """
    folder, writes = Path(folder), processes.is_first()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already; choose another folder, or remove it.")
    processes.barrier(f"saving {folder}")  # or the first process has written before another looks
    config = origin.config if isinstance(origin, Checkpoint) else origin
    _check(config, params, dtype)
    stored = _homes(origin, params)
    dtypes = _dtypes(origin, stored, dtype)
    files = _files(stored, dtypes, shard_bytes)
    temporary = folder.with_name(f".{folder.name}.part")
    if writes:
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
        temporary.mkdir(parents=True)
        _write_beside(temporary, origin, _labelled(config, params, dtype), files)
    for file, names in files.items():
        _write_tensors(temporary / file, {name: stored[name] for name in names}, dtypes, writes)
    if writes:
        temporary.replace(folder)
    processes.barrier(f"saved {folder}")


def _check(config: Config, params: Params, dtype: str | None) -> None:
    if dtype not in (None, *DTYPES.values()):
        raise ValueError(f"weights are stored as one of {', '.join(DTYPES.values())}, got {dtype!r}.")
    shape = architectures.shape_of(config)
    outputs = params["head"].shape[1] if "head" in params else shape.vocabulary
    wanted = jax.eval_shape(lambda: transformer.init(shape, outputs, jax.random.key(0)))
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, wanted):
        raise ValueError(f"the parameters are not those of {shape}, as which they should be written.")


def _homes(origin: Checkpoint | Config, params: Params) -> dict[str, list[Home]]:
    config, there = (origin.config, origin.tensors) if isinstance(origin, Checkpoint) else (origin, {})
    family, is_bare = FAMILIES[config["model_type"]], isinstance(origin, Checkpoint) and origin.is_bare
    language = next((name for name in family.heads if name in there), family.heads[0])
    head = language if _is_language_model(config, params) else SCALAR_HEAD
    found = tensors.homes(tensors.parts(family, params, head, is_bare), params)
    if "head" not in params and isinstance(origin, Checkpoint) and language in there:
        found[language] = found[origin.embedding]  # tied, and stored twice
    return found


def _is_language_model(config: Config, params: Params) -> bool:
    return "head" not in params or params["head"].shape[1] == config["vocab_size"]


def _dtypes(origin: Checkpoint | Config, stored: dict[str, list[Home]], dtype: str | None) -> dict[str, np.dtype]:
    """What every tensor is stored as."""
    own = {name: found[0].leaf.dtype for name, found in stored.items()}
    if isinstance(origin, Checkpoint):
        common = origin.tensors[origin.embedding].dtype
        own = {name: origin.tensors[name].dtype if name in origin.tensors else common for name in stored}
    return {name: jnp.dtype(dtype or kind) for name, kind in own.items()}


def _files(stored: dict[str, list[Home]], dtypes: dict[str, np.dtype], shard_bytes: int) -> dict[str, list[str]]:
    """The names of the tensors of every file, filled one after the other."""
    groups: list[list[str]] = [[]]
    held = 0
    for name in sorted(stored):
        size = math.prod(stored[name][0].part.size) * dtypes[name].itemsize
        if groups[-1] and held + size > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    if len(groups) == 1:
        return {WHOLE: groups[0]}
    return {f"model-{number:05}-of-{len(groups):05}.safetensors": names for number, names in enumerate(groups, 1)}


def _labelled(config: Config, params: Params, dtype: str | None) -> Config:
    """The config of a model with this head, in this dtype."""
    family = FAMILIES[config["model_type"]]
    if _is_language_model(config, params):
        config = config | {"architectures": [family.language_model]}
    else:
        labels = [f"LABEL_{number}" for number in range(params["head"].shape[1])]
        config = config | {
            "architectures": [family.reward_model],
            "id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
        }
    older = "torch_dtype" if "torch_dtype" in config else "dtype"
    return config | ({older: dtype} if dtype else {})


def _write_beside(folder: Path, origin: Checkpoint | Config, config: Config, files: dict[str, list[str]]) -> None:
    """Everything but tensors."""
    _write_json(folder / CONFIG, config)
    if len(files) > 1:
        places = {name: file for file, names in files.items() for name in names}
        _write_json(folder / INDEX, {"metadata": {}, "weight_map": places})
    if isinstance(origin, Checkpoint):
        for path in (path for pattern in BESIDE for path in origin.folder.glob(pattern) if path.is_file()):
            shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, content: Config) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tensors(path: Path, stored: dict[str, list[Home]], dtypes: dict[str, np.dtype], writes: bool) -> None:
    """One file; all processes gather what the first one writes."""
    held = {}
    for name, found in stored.items():
        tensor = tensors.assembled(found, _gathered).astype(dtypes[name], copy=False)
        if writes:
            held[name] = tensor
    if writes:
        optional("safetensors.numpy").save_file(held, path, metadata={"format": "pt"})
        shutil.copymode(path.with_name(CONFIG), path)  # safetensors lets nobody but the owner read


def _gathered(leaf: jax.Array, layer: int | None) -> np.ndarray:
    """A leaf or one layer of it, whole on this host."""
    mesh = leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else None
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return np.asarray(jax.jit(_taken, out_shardings=whole)(leaf, layer).addressable_data(0))


def _taken(leaf: jax.Array, layer: int | None) -> jax.Array:
    return leaf if layer is None else leaf[layer]
