"""The README's Python: what it takes from the library is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PACKAGES = {"gvgap_jax", "theory", "experiments"}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def missing(source):
    """Names that a piece of code takes from the packages and that are not there."""
    tree, taken, absent = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
            for name in (alias.name for alias in node.names):
                found = getattr(importlib.import_module(node.module), name, None)
                if found is None:
                    try:
                        found = importlib.import_module(f"{node.module}.{name}")
                    except ImportError:
                        absent.append(f"{node.module}.{name}")
                taken[name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
            where = taken[node.value.id]
            if where is not None and not hasattr(where, node.attr):
                absent.append(f"{node.value.id}.{node.attr}")
    return absent


@pytest.mark.parametrize("source", BLOCKS)
def test_what_the_readme_uses_is_there(source):
    assert not missing(source)


def test_what_is_not_there_would_be_seen():
    source = "from gvgap_jax import losses, nothing\nfrom gvgap_jax.lm import train\nlosses.dpo, train.fit_all"
    assert missing(source) == ["gvgap_jax.nothing", "train.fit_all"]
    assert len(BLOCKS) > 1
