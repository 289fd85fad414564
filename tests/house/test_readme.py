"""The README: short, its two commands first, its code runs, and what it names is there."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = {"gvgap_jax", "theory", "experiments"}
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+")


def missing(source):
    """Names that a piece of code takes from the packages and that are not there."""
    tree, taken, absent = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
            for name in (alias.name for alias in node.names):
                value = getattr(importlib.import_module(node.module), name, None)
                if value is None:
                    try:
                        value = importlib.import_module(f"{node.module}.{name}")
                    except ImportError:
                        absent.append(f"{node.module}.{name}")
                taken[name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
            where = taken[node.value.id]
            if where is not None and not hasattr(where, node.attr):
                absent.append(f"{node.value.id}.{node.attr}")
    return absent


def test_the_readme_is_short():
    assert README.count("\n") <= 150


def test_the_two_commands_are_the_first_that_install():
    installs = [line for line in README.splitlines() if line.startswith("pip install -e")]
    assert installs[:2] == [
        "pip install -e . && python -m experiments quickstart",
        'pip install -e ".[test]" && pytest',
    ]


def test_its_code_prints_what_it_says():
    (source,) = BLOCKS
    wanted = README.split(source)[1].split("```")[2]
    printed = subprocess.check_output([sys.executable, "-c", source], cwd=ROOT, text=True)
    assert NUMBER.sub("x", printed.strip()) == NUMBER.sub("x", wanted.strip())
    regrets = [[float(number) for number in NUMBER.findall(text)] for text in (printed, wanted)]
    assert regrets[0] == pytest.approx(regrets[1], rel=0.02)


def test_what_is_cited_is_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{version}}}," in README
    assert re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


def test_what_is_not_there_would_be_seen():
    source = "from gvgap_jax import losses, nothing\nfrom gvgap_jax.training import train\nlosses.dpo, train.fit_all"
    assert missing(source) == ["gvgap_jax.nothing", "train.fit_all"]
