"""Small files that others wrote: their kind and size are looked at before anything is read."""

import json
from typing import Any

from gvgap_jax.runtime.files import Folder, is_local, read_bytes

KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false", type(None): "null"}


def read_text(path: Folder, most: int) -> str:
    """The text of a file of at most so many bytes.

    Raises:
      ValueError: it is larger, no UTF-8, or no file: a folder, or a pipe that would never end.
      OSError: it cannot be read.
    """
    check_file(path)
    if path.stat().st_size > most:
        raise ValueError(
            f"{path} is larger than {most / 2**20:g} MiB, which no such file needs to be; fetch or make it again."
        )
    content = read_bytes(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}); fetch or make it again.") from error


def read_object(path: Folder, most: int) -> dict[str, Any]:
    """The JSON object in a file of at most so many bytes; raises as ``read_text``, and ValueError if there is none."""
    text = read_text(path, most)
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is no JSON object that can be read: it is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON object ({str(error)[:100]}): it is damaged; fetch or make it again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object, but {KINDS[type(found)]}; fetch or make it again.")
    return found


def check_file(path: Folder) -> None:
    """ValueError if what lies there is a folder, a pipe, a socket or a device, or if there is nothing."""
    if not path.exists():
        raise ValueError(f"there is no file {path}.")
    if path.is_dir() or (is_local(path) and not path.is_file()):
        what = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise ValueError(f"{path} should be a file, and is {what}; put the file there.")
