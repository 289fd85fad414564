"""Programs of a plan in few words: the fields in which they differ."""

import ast
from collections.abc import Sequence


def short_labels(programs: Sequence[str]) -> list[str]:
    """Of each program, as a manifest writes it, the fields in which it differs from the others: ``arm DPO, pairs 8``.

    All fields of a program that is alone.
    """
    fields = [fields_of(program) for program in programs]
    names = dict.fromkeys(name for each in fields for name in each)
    told_apart = [name for name in names if len({each.get(name) for each in fields}) > 1] or list(names)
    return [", ".join(f"{name} {each[name]}".strip() for name in told_apart if name in each) for each in fields]


def fields_of(program: str) -> dict[str, str]:
    """The fields of a ``repr``, by name, and those of what they hold; all of it where it is no Python."""
    try:
        return _leaves(ast.parse(program, mode="eval").body)
    except SyntaxError:
        return {"": program}


def _leaves(value: ast.expr, name: str = "") -> dict[str, str]:
    if isinstance(value, ast.Call):
        return {key: text for each in value.keywords for key, text in _leaves(each.value, each.arg or "").items()}
    return {
        name: value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ast.unparse(value)
    }
