"""What lies in the files of a checkpoint: safetensors, one or several with an index, and their headers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from gvgap_jax.runtime import foreign
from gvgap_jax.runtime.messages import first_few
from gvgap_jax.runtime.packages import optional

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONVERT = (
    "convert it with the package transformers: AutoModelForCausalLM.from_pretrained(name).save_pretrained(folder)."
)
MOST_INDEX = 2**26  # bytes
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BUFFERS = (  # what older files hold beside parameters: the ends of their names
    *("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"),
    *(".attn.bias", ".attn.masked_bias"),
)


class Stored(NamedTuple):
    """One tensor of a checkpoint: its file and its name there, its dtype as JAX writes it, and its size."""

    file: Path
    name: str
    dtype: str
    size: tuple[int, ...]


def tensors_of(folder: Path) -> dict[str, Stored]:
    """What the headers of all files say, by the tensor's name; buffers of older files are left out.

    Raises:
      ValueError: a file is missing, damaged, or no safetensors, or a tensor is of another dtype than ``DTYPES``.
    """
    if (folder / WHOLE).is_file():
        with opened(folder / WHOLE) as file:
            return _headers(folder / WHOLE, file)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} holds neither {WHOLE} nor {INDEX}; if there is a pytorch_model.bin, {CONVERT}")
    places = _index(folder)
    absent = sorted(file for file in set(places.values()) if not (folder / file).is_file())
    if absent:
        raise ValueError(f"{folder} lacks {first_few(absent)}, which {INDEX} names; fetch the checkpoint again.")
    found = {}
    for name in sorted(set(places.values())):
        with opened(folder / name) as file:
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
def opened(path: Path) -> Iterator[Any]:
    """A file of tensors; ValueError if it is damaged."""
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
        if name.endswith(BUFFERS):
            continue
        if tensor.get_dtype() not in DTYPES:
            raise ValueError(f"{path}: {name} is stored as {tensor.get_dtype()}; there are {', '.join(DTYPES)}.")
        found[name] = Stored(path, name, DTYPES[tensor.get_dtype()], tuple(tensor.get_shape()))
    return found
