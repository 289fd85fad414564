"""Single values of a row: texts, numbers, labels, messages; each as it should be, or ValueError with the reason.

A list or an object may stand as JSON in a text, as in the cell of a table. A reason is the same for all rows that lack
the same.
"""

import json
import math
from typing import Any

from gvgap_jax.lm.data.tokenizer import Messages

Row = dict[str, Any]
ROLES = {"human": "user", "prompter": "user", "observation": "tool"} | dict.fromkeys(
    ("gpt", "chatgpt", "bot", "model", "ai"), "assistant"
)
TEXTS = ("text", "input_text", "output_text")  # types of parts of a message
SHAREGPT = ("system", "user", "assistant", "tool")
TRUTHS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
EMPTY = (None, "", [], {})


def present(row: Any) -> Row:
    """The row without its empty columns; NaN and infinities are how tables write nothing."""
    if not isinstance(row, dict):
        raise ValueError("is no JSON object")
    infinite = {name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    return {name: value for name, value in row.items() if value is not None and name not in infinite}


def text(row: Row, name: str, blank: bool = False) -> str:
    """A text that is not empty, unless it may be ``blank``."""
    value = row.get(name)
    if value is None:
        raise ValueError(f"has no {name}")
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    if not blank and not value.strip():
        raise ValueError(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half a character (a lone surrogate)") from None
    return value


def number(row: Row, name: str) -> float:
    """A finite number."""
    value = row.get(name)
    if value is None:
        raise ValueError(f"has no {name}")
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{name} is no number")
    return found


def first_or_second(row: Row, name: str) -> int:
    """0 or 1."""
    if str(row.get(name)) not in ("0", "1", "0.0", "1.0"):
        raise ValueError(f"{name} should be 0 or 1")
    return int(float(row[name]))


def truth(row: Row, name: str) -> bool:
    """True or false."""
    value = row.get(name)
    found = TRUTHS.get(value.strip().lower() if isinstance(value, str) else value) if _hashable(value) else None
    if found is None:
        raise ValueError(f"{name} should be true or false")
    return found


def structure(value: Any) -> Any:
    """What a JSON text of a list or of an object holds; anything else as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def listed(value: Any) -> Any:
    """A list of objects that is written as an object of lists, as ``datasets`` has it; anything else as it is."""
    found = structure(value)
    if not isinstance(found, dict) or not found or not all(isinstance(each, list) for each in found.values()):
        return found
    if len({len(each) for each in found.values()}) > 1:
        return found
    return [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]


def objects(row: Row, name: str, least: int = 1) -> list[Row]:
    """A list of at least so many objects."""
    found = listed(row.get(name))
    if not isinstance(found, list) or len(found) < least or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{name} should be {least} objects or more")
    return [present(each) for each in found]


def is_conversation(value: Any) -> bool:
    """Whether it is messages, or one, and no text."""
    return isinstance(value, list | dict)


def messages(row: Row, name: str) -> Messages:
    """Messages of role and content, or of from and value; what else stands in them is kept."""
    if name not in row:
        raise ValueError(f"has no {name}")
    found = listed(row[name])
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{name} should be messages of role and content")
    return [_message(each) for each in found]


def answer(row: Row, name: str) -> str:
    """A text, or the text of the assistant's only message."""
    if not is_conversation(row.get(name)):
        return text(row, name)
    found = messages(row, name)
    if len(found) != 1 or found[0]["role"] != "assistant":
        raise ValueError(f"{name} should end in one message of the assistant")
    beside = sorted(set(found[0]) - {"role", "content"})
    if beside:
        raise ValueError(f"{name} has {', '.join(beside)} beside its text, which would be lost")
    return text({name: found[0]["content"]}, name)


def out_of_cell(value: Any) -> Any:
    """Messages, or one, that a cell of a table holds as JSON; what else it holds as it is."""
    found = structure(value)
    if isinstance(found, str):
        if "".join(found[:40].split()).startswith(("[{'role'", "[{'content'", "[{'from'", "[{'value'")):
            raise ValueError("has messages in a text that is no JSON")
        return found
    several = found if isinstance(found, list) else [found]
    speaks = all(
        isinstance(each, dict) and ({"role", "content"} <= set(each) or {"from", "value"} <= set(each))
        for each in several
    )
    return found if several and speaks else value


def _message(message: Row) -> dict[str, Any]:
    said = _without_nothing(message)
    if "role" not in said and "from" in said:
        text(said, "from")
        said = {"role": said.pop("from"), "content": said.pop("value", None)} | said
        if _role(said["role"]) not in SHAREGPT:
            raise ValueError("a turn is of none of human, gpt, system and tool, and would be lost")
    role, content = text(said, "role"), said.get("content")
    beside = {key: value for key, value in said.items() if key not in ("role", "content") and value not in EMPTY}
    try:
        json.dumps(beside, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"has {', '.join(beside)} beside a message, which cannot be written as JSON") from error
    return {"role": _role(role), "content": _content("" if content is None and beside else content)} | beside


def _role(written: str) -> str:
    role = written.strip().lower()
    return ROLES.get(role, role)


def _without_nothing(value: Any) -> Any:
    """Without what is null; Parquet gives every message the keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_nothing(each) for key, each in value.items() if each is not None}
    return [_without_nothing(each) for each in value] if isinstance(value, list) else value


def _content(content: Any) -> str:
    if isinstance(content, list):
        parts = [each if isinstance(each, dict) else {"type": "text", "text": each} for each in content]
        kinds = sorted({str(each.get("type", "text")) for each in parts} - {*TEXTS})
        if kinds:
            raise ValueError(f"has a message with parts that are no text ({', '.join(kinds)})")
        content = "".join(text(each, "text", blank=True) for each in parts)
    return text({} if content is None else {"content": content}, "content", blank=True)


def _hashable(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
