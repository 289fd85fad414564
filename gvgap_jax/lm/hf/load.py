"""Checkpoints of Hugging Face (config.json and safetensors) as parameters, laid out over devices.

Only the slices that a device holds are read for it, one shard of one leaf at a time: no host holds the model.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from gvgap_jax.lm.hf import architectures, tensors
from gvgap_jax.lm.hf.architectures import Config
from gvgap_jax.lm.hf.tensors import SCALAR_HEAD, Fetch, Part
from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.messages import differences, first_few
from gvgap_jax.runtime.packages import optional
from gvgap_jax.types import Params

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BESIDE = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*")
BESIDE += ("generation_config.json",)
FILES = (CONFIG, WHOLE, INDEX, "model-*.safetensors", *BESIDE)
CONVERT = (
    "convert it with the package transformers: AutoModelForCausalLM.from_pretrained(name).save_pretrained(folder)."
)
MOST_CONFIG, MOST_INDEX = 2**22, 2**26  # bytes
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Stored(NamedTuple):
    """One tensor of a checkpoint: its file, its dtype as JAX writes it, and its size."""

    file: Path
    dtype: str
    size: tuple[int, ...]


class Checkpoint(NamedTuple):
    """A model on disk; nothing but headers has been read.

    Attributes:
      folder: where it lies, with its tokenizer.
      config: what its config.json says.
      shape: the same as a shape, with activations in float32 and no start token.
      tensors: what is stored, by the name that it has there.
    """

    folder: Path
    config: Config
    shape: Shape
    tensors: dict[str, Stored]


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or under a name of the hub, from where it is downloaded once.

    ``revision`` is a branch, tag or commit of the hub. Buffers that older files hold beside parameters are ignored.

    Raises:
      ValueError: there is none, its architecture is not here, a file or a tensor is missing, damaged, of another size
        than config.json says or unknown, or safetensors is not installed.
    """
    folder = _folder(name, revision, FILES)
    config, shape = _configuration(folder)
    checkpoint = Checkpoint(folder, config, shape, _tensors(folder))
    _check(checkpoint)
    return checkpoint


def shape_of(name: str | Path, revision: str | None = None) -> Shape:
    """The shape of a checkpoint, of which nothing but its configuration is looked at or fetched.

    Raises:
      ValueError: there is none, or its architecture is not here.
    """
    return _configuration(_folder(name, revision, (CONFIG,)))[1]


def _configuration(folder: Path) -> tuple[Config, Shape]:
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


def _tensors(folder: Path) -> dict[str, Stored]:
    """What the headers of all files say."""
    if (folder / WHOLE).is_file():
        with _opened(folder / WHOLE) as file:
            return _headers(folder / WHOLE, file)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds neither {WHOLE} nor {INDEX}; if there is a pytorch_model.bin, {CONVERT}")
    places = _index(folder)
    absent = sorted(file for file in set(places.values()) if not (folder / file).is_file())
    if absent:
        raise ValueError(f"{folder} lacks {first_few(absent)}, which {INDEX} names; fetch the checkpoint again.")
    found = {}
    for name in sorted(set(places.values())):
        with _opened(folder / name) as file:
            found |= _headers(folder / name, file)
    lost = sorted(set(places) - set(found))
    if lost:
        raise ValueError(f"{folder}: {first_few(lost)} should be in the files that {INDEX} names, and is not.")
    return found


def _index(folder: Path) -> dict[str, str]:
    """The file of every tensor; a plain name, which may be a link, such as those that the hub's package makes."""
    places = foreign.read_object(folder / INDEX, MOST_INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(each, str) for each in places.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensors to files; fetch the checkpoint again.")
    for file in sorted(set(places.values())):
        names = {PurePosixPath(file).name, PureWindowsPath(file).name}
        if names != {file} or file in ("", "..") or not file.isprintable():
            raise ValueError(f"{folder / INDEX} names {file[:80]!r}, and may only name files of its own folder.")
        if not file.endswith(".safetensors"):
            raise ValueError(
                f"{folder / INDEX} names {file[:80]!r}: only .safetensors files are read, because a file that Python "
                f"unpickles may run any program; {CONVERT}"
            )
    return places


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    reader = optional("safetensors")
    try:
        with reader.safe_open(path, framework="np") as file:
            yield file
    except reader.SafetensorError as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); fetch it again.") from error


def _headers(path: Path, file: Any) -> dict[str, Stored]:
    found = {}
    for name in file.keys():  # noqa: SIM118  not a dictionary
        tensor = file.get_slice(name)
        if name.endswith(tensors.BUFFERS):
            continue
        if tensor.get_dtype() not in DTYPES:
            raise ValueError(f"{path}: {name} is stored as {tensor.get_dtype()}; there are {', '.join(DTYPES)}.")
        found[name] = Stored(path, DTYPES[tensor.get_dtype()], tuple(tensor.get_shape()))
    return found


def _check(checkpoint: Checkpoint) -> None:
    """Every tensor of the body is there in its size, and none is unknown."""
    kind = checkpoint.config["model_type"]
    body = {name: places for name, places in _places(checkpoint.shape, 1).items() if name != "head"}
    wanted = tensors.homes(tensors.parts(kind, body, None), body)
    for name, found in wanted.items():
        _check_size(checkpoint, name, found[0].part)
    unknown = sorted(set(checkpoint.tensors) - set(wanted) - {*tensors.HEADS[kind], SCALAR_HEAD})
    if unknown:
        raise ValueError(f"{checkpoint.folder} holds {first_few(unknown)}, which a {kind} model has not.")


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
    parts = tensors.parts(checkpoint.config["model_type"], places, head)
    if head is not None:
        _check_size(checkpoint, head, parts["head"])
    one = SingleDeviceSharding(jax.local_devices()[0])
    shardings = place(places) if place else jax.tree.map(lambda _: one, places)
    with _fetching(checkpoint) as fetch:
        return jax.tree.map(lambda leaf, part, sharding: _loaded(leaf, part, sharding, fetch), places, parts, shardings)


def _check_shape(checkpoint: Checkpoint, shape: Shape) -> None:
    free = {"dtype": "float32", "remat": False}
    there, wanted = (dataclasses.asdict(dataclasses.replace(one, **free)) for one in (checkpoint.shape, shape))
    differing = differences(there, wanted)
    if differing:
        raise ValueError(f"the shape is not that of {checkpoint.folder}: {first_few(differing, '; ')}.")


def _head(checkpoint: Checkpoint, outputs: int | None) -> str | None:
    """The name of the head's tensor; None is a head of 0."""
    if outputs is not None:
        return SCALAR_HEAD if SCALAR_HEAD in checkpoint.tensors else None
    names = tensors.HEADS[checkpoint.config["model_type"]]
    found = [name for name in names if name in checkpoint.tensors]
    if not found:
        raise ValueError(f"{checkpoint.folder} has no {names[0]}: it is no language model; load it with outputs=1.")
    return found[0]


@contextlib.contextmanager
def _fetching(checkpoint: Checkpoint) -> Iterator[Fetch]:
    """Slices of the checkpoint's tensors; its files stay open meanwhile."""
    with contextlib.ExitStack() as stack:
        paths = {tensor.file for tensor in checkpoint.tensors.values()}
        files = {path: stack.enter_context(_opened(path)) for path in paths}

        def fetch(name: str, index: tuple[slice, ...]) -> np.ndarray:
            found = files[checkpoint.tensors[name].file].get_slice(name)[index]
            if not np.isfinite(found).all():
                path = checkpoint.tensors[name].file
                raise ValueError(
                    f"{path}: {name} holds numbers that are not finite; fetch or train the checkpoint again."
                )
            return found

        yield fetch


def _loaded(leaf: jax.ShapeDtypeStruct, part: Part | None, sharding, fetch: Fetch) -> jax.Array:
    """Shard by shard, because a callback for all of them would hold them all on the host."""
    devices: dict[tuple, list] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(along.indices(size)[:2] for along, size in zip(index, leaf.shape, strict=True))
        devices.setdefault(bounds, []).append(device)
    shards = []
    for bounds, same in devices.items():
        numbers = _numbers(leaf, part, tuple(slice(*bound) for bound in bounds), fetch)
        shards += [jax.block_until_ready(jax.device_put(numbers, device)) for device in same]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _numbers(leaf: jax.ShapeDtypeStruct, part: Part | None, index: tuple[slice, ...], fetch: Fetch) -> np.ndarray:
    """One shard of a leaf on the host."""
    found = np.zeros([along.stop - along.start for along in index], leaf.dtype)
    if part is not None and "{}" in part.tensor:
        layers, *rest = index
        for row, layer in enumerate(range(layers.start, layers.stop)):
            found[row] = tensors.piece(part, layer, tuple(rest), fetch)
    elif part is not None:
        found[...] = tensors.piece(part, 0, index, fetch)
    return found


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
