"""Checkpoints of Hugging Face (config.json and safetensors) as parameters, laid out over devices.

Only the slices that a device holds are read for it, one shard of one leaf at a time: no host holds the model.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from gvgap_jax.lm.hf import architectures, shards, stored, tensors
from gvgap_jax.lm.hf.families import FAMILIES, Config, Family
from gvgap_jax.lm.hf.stored import INDEX, WHOLE, Stored
from gvgap_jax.lm.hf.tensors import SCALAR_HEAD, Fetch, Part
from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.messages import differences, first_few
from gvgap_jax.types import Params

CONFIG, ADAPTER = "config.json", "adapter_config.json"
ADAPTED = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*")
BESIDE += ("generation_config.json",)
FILES = (CONFIG, ADAPTER, WHOLE, INDEX, "model-*.safetensors", *BESIDE)
MOST_CONFIG = 2**22  # bytes
COMPARED = 2**12  # rows of two tensors that are compared at a time


class Checkpoint(NamedTuple):
    """A model on disk; nothing but headers has been read.

    Attributes:
      folder: where it lies, with its tokenizer.
      config: what its config.json says; where it ties a head that is stored and another one, it says untied here.
      shape: the same as a shape, with activations in float32 and no start token.
      tensors: what is stored, by the name that transformers gives it.
    """

    folder: Path
    config: Config
    shape: Shape
    tensors: dict[str, Stored]

    @property
    def family(self) -> Family:
        """Of its model."""
        return FAMILIES[self.config["model_type"]]

    @property
    def is_bare(self) -> bool:
        """Whether names of its tensors are without the family's prefix, as those of a body that was saved alone."""
        return f"{self.family.names['norm']}.weight" in self.tensors

    @property
    def embedding(self) -> str:
        """The name of the embedding's tensor."""
        return f"{'' if self.is_bare else self.family.prefix}{self.family.names['embedding']}.weight"


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or under a name of the hub, from where it is downloaded once.

    ``revision`` is a branch, tag or commit of the hub. Buffers that older files hold beside parameters are ignored.

    Raises:
      ValueError: there is none, its architecture is not here, a file or a tensor is missing, damaged, of another size
        than config.json says or unknown, or safetensors is not installed.
    """
    folder = _folder(name, revision, FILES)
    config, shape = _configuration(folder)
    checkpoint = _embedded(Checkpoint(folder, config, shape, stored.tensors_of(folder)))
    _check(checkpoint)
    return _untied(checkpoint)


def shape_of(name: str | Path, revision: str | None = None) -> Shape:
    """The shape of a checkpoint, of which nothing but its configuration is looked at or fetched.

    Raises:
      ValueError: there is none, or its architecture is not here.
    """
    return _configuration(_folder(name, revision, (CONFIG, ADAPTER)))[1]


def _configuration(folder: Path) -> tuple[Config, Shape]:
    if (folder / ADAPTER).is_file() and not any((folder / name).is_file() for name in (WHOLE, INDEX)):
        raise ValueError(
            f"{folder} holds an adapter (PEFT, {ADAPTER}) and no whole model; merge it first, with the package peft: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(merged), and the "
            "tokenizer beside it."
        )
    if (folder / ADAPTER).is_file() and any((folder / name).is_file() for name in ADAPTED):
        raise ValueError(
            f"{folder} holds a whole model and an adapter (PEFT, {ADAPTER}) beside it: merge the adapter into its base "
            "with the package peft, or move the adapter's files out of the folder if they are merged already."
        )
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no {CONFIG}; a checkpoint is a folder with one and with {WHOLE} or {INDEX}.")
    config = foreign.read_object(folder / CONFIG, MOST_CONFIG)
    try:
        return config, architectures.shape_of(config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _folder(name: str | Path, revision: str | None, files: Sequence[str]) -> Path:
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a local folder, which has no revision {revision!r}; leave it out.")
        return Path(name)
    return hub.fetch(str(name), files, revision)


def _check(checkpoint: Checkpoint) -> None:
    """Every tensor of the body is there in its size, and none is unknown."""
    body = {name: places for name, places in _places(checkpoint.shape, 1).items() if name != "head"}
    wanted = tensors.homes(tensors.parts(checkpoint.family, body, None, checkpoint.is_bare), body)
    unknown = sorted(set(checkpoint.tensors) - set(wanted) - {*checkpoint.family.heads, SCALAR_HEAD})
    missing = sorted(set(wanted) - set(checkpoint.tensors))
    if missing and unknown:
        raise ValueError(
            f"{checkpoint.folder} has no {missing[0]}, which its {CONFIG} asks for, but {unknown[0]}: save the model "
            "itself, without what was wrapped around it."
        )
    for name, found in wanted.items():
        _check_size(checkpoint, name, found[0].part)
    if "score.bias" in unknown:
        raise ValueError(f"{checkpoint.folder} holds score.bias: a reward head with a bias is not here.")
    if unknown:
        raise ValueError(
            f"{checkpoint.folder} holds {first_few(unknown)}, which a {checkpoint.config['model_type']} model has not."
        )


def _embedded(checkpoint: Checkpoint) -> Checkpoint:
    """With a tied embedding that is stored as the head alone: safetensors keeps one name of what is shared."""
    head = next((name for name in checkpoint.family.heads if name in checkpoint.tensors), None)
    if head is None or not checkpoint.shape.tied or checkpoint.embedding in checkpoint.tensors:
        return checkpoint
    others = {name: tensor for name, tensor in checkpoint.tensors.items() if name != head}
    return checkpoint._replace(tensors=others | {checkpoint.embedding: checkpoint.tensors[head]})


def _untied(checkpoint: Checkpoint) -> Checkpoint:
    """As transformers 5 reads it: a head that is stored and is not the embedding is not tied, whatever is said."""
    head = next((name for name in checkpoint.family.heads if name in checkpoint.tensors), None)
    if head is None or not checkpoint.shape.tied or _are_equal(checkpoint, head, checkpoint.embedding):
        return checkpoint
    config = checkpoint.config | {"tie_word_embeddings": False}
    return checkpoint._replace(config=config, shape=dataclasses.replace(checkpoint.shape, tied=False))


def _are_equal(checkpoint: Checkpoint, *names: str) -> bool:
    size, other = (checkpoint.tensors[name].size for name in names)
    if size != other:
        return False
    with _fetching(checkpoint) as fetch:
        parts = (slice(row, min(row + COMPARED, size[0])) for row in range(0, size[0], COMPARED))
        return all(np.array_equal(fetch(names[0], (part,)), fetch(names[1], (part,))) for part in parts)


def has_scalar_head(checkpoint: Checkpoint) -> bool:
    """Whether it is a reward model; else ``load(outputs=1)`` makes a head of 0, from which one is trained."""
    return SCALAR_HEAD in checkpoint.tensors


def check_scalar_head(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is no reward model, to all of whose responses a head of 0 would give the same reward.

    Raises:
      ValueError: it has no head, or one of several labels.
    """
    if not has_scalar_head(checkpoint):
        raise ValueError(
            f"{checkpoint.folder} has no {SCALAR_HEAD}: it is no reward model, and would find all responses equally "
            "good; name a checkpoint of the kind ...ForSequenceClassification with one label."
        )
    _check_labels(checkpoint, 1)


def _check_labels(checkpoint: Checkpoint, outputs: int) -> None:
    labels = checkpoint.tensors[SCALAR_HEAD].size[:1]
    if labels != (outputs,):
        raise ValueError(
            f"{checkpoint.folder}: {SCALAR_HEAD} has {labels[0] if labels else 'no'} labels and not {outputs}; a "
            "reward model has one."
        )


def _check_size(checkpoint: Checkpoint, name: str, part: Part) -> None:
    if name not in checkpoint.tensors:
        raise ValueError(f"{checkpoint.folder} has no {name}, which its {CONFIG} asks for.")
    size = checkpoint.tensors[name].size
    if size != part.size:
        raise ValueError(f"{checkpoint.folder}: {name} is {size}, but {CONFIG} makes it {part.size}.")


def _places(shape: Shape, outputs: int) -> Params:
    return jax.eval_shape(lambda: transformer.init(shape, outputs, jax.random.key(0)))


def load(checkpoint: Checkpoint, shape: Shape | None = None, outputs: int | None = None, place: Any = None) -> Params:
    """The parameters of a checkpoint, in the dtype that ``shape`` has for parameters.

    Args:
      checkpoint: from ``open_checkpoint``.
      shape: the checkpoint's with another ``dtype`` or ``remat``; None is the checkpoint's.
      outputs: None is the language model, with its head. A number is a head of so many, 1 for a reward model: the
        checkpoint's ``score.weight`` if it has one, else 0 on the language model's body.
      place: shapes -> shardings, such as ``Layout.place``; None is the first device.

    Raises:
      ValueError: another shape, a head that is missing or of another size, or numbers that are not finite.
    """
    shape = checkpoint.shape if shape is None else shape
    _check_shape(checkpoint, shape)
    places = _places(shape, shape.vocabulary if outputs is None else outputs)
    head = _head(checkpoint, outputs) if "head" in places else None
    parts = tensors.parts(checkpoint.family, places, head, checkpoint.is_bare)
    if head is not None:
        _check_size(checkpoint, head, parts["head"])
    one = SingleDeviceSharding(jax.local_devices()[0])
    shardings = place(places) if place else jax.tree.map(lambda _: one, places)
    with _fetching(checkpoint) as fetch:
        return jax.tree.map(functools.partial(shards.loaded, fetch), places, parts, shardings)


def _check_shape(checkpoint: Checkpoint, shape: Shape) -> None:
    free = {"dtype": "float32", "remat": False}
    there, wanted = (dataclasses.asdict(dataclasses.replace(one, **free)) for one in (checkpoint.shape, shape))
    differing = differences(there, wanted)
    if differing:
        raise ValueError(f"the shape is not that of {checkpoint.folder}: {first_few(differing, '; ')}.")


def _head(checkpoint: Checkpoint, outputs: int | None) -> str | None:
    """The name of the head's tensor; None is a head of 0."""
    if outputs is not None and not has_scalar_head(checkpoint):
        return None
    if outputs is not None:
        _check_labels(checkpoint, outputs)
        return SCALAR_HEAD
    names = checkpoint.family.heads
    found = [name for name in names if name in checkpoint.tensors]
    if not found:
        raise ValueError(f"{checkpoint.folder} has no {names[0]}: it is no language model; load it with outputs=1.")
    return found[0]


@contextlib.contextmanager
def _fetching(checkpoint: Checkpoint) -> Iterator[Fetch]:
    """Slices of the checkpoint's tensors; its files stay open meanwhile."""
    with contextlib.ExitStack() as stack:
        paths = {tensor.file for tensor in checkpoint.tensors.values()}
        files = {path: stack.enter_context(stored.opened(path)) for path in paths}

        def fetch(name: str, index: tuple[slice, ...]) -> np.ndarray:
            tensor = checkpoint.tensors[name]
            found = files[tensor.file].get_slice(tensor.name)[index]
            if not np.isfinite(found).all():
                raise ValueError(
                    f"{tensor.file}: {tensor.name} holds numbers that are not finite; fetch or train the checkpoint "
                    "again."
                )
            return found

        yield fetch


def check_vocabulary(shape: Shape, tokens: int) -> None:
    """Refuse a tokenizer of so many tokens that some have no row in the embedding; rows without a token are fine.

    Raises:
      ValueError: there are more tokens than rows.
    """
    if tokens > shape.vocabulary:
        raise ValueError(
            f"the tokenizer has {tokens} tokens and the model only {shape.vocabulary} rows for them; use the tokenizer "
            "that came with the checkpoint, without added tokens."
        )
