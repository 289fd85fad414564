"""Parts of messages: what was meant by an unknown name, how two configurations differ, the first few of many."""

import difflib
import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

SHOWN = 3  # of many


def print_any_character() -> None:
    """Write what the encoding of the output lacks, as in the C locale, as its escape: printing would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence: there is nothing of that name; which names there are, and the nearest of them if one is near."""
    plain = {each.lower(): each for each in known}
    nearest = difflib.get_close_matches(name.lower(), plain, n=1)
    hint = f" Did you mean {plain[nearest[0]]!r}?" if nearest else ""
    return f"there is no {what} {name!r}; there are {', '.join(plain.values())}.{hint}"


def differences(stored: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """How a stored configuration differs from the wanted one: a phrase for every leaf of the two JSON objects."""
    old, new = _flat(stored), _flat(wanted)
    return [
        f"{name} {old.get(name, 'nothing')} there, {new.get(name, 'nothing')} now"
        for name in old | new
        if old.get(name) != new.get(name)
    ]


def _flat(value: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {above: value}
    return {name: leaf for key, below in value.items() for name, leaf in _flat(below, f"{above} {key}".strip()).items()}


def first_few(phrases: Sequence[str], between: str = ", ") -> str:
    """The first phrases, and how many more there are."""
    more = f"{between}and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return between.join(phrases[:SHOWN]) + more


def reason(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
