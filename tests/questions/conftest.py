"""Tiny records of experiments, made when a test first asks for them."""

import contextlib
import functools
import json
import os

import jax
import pytest
from filelock import FileLock

from experiments.cli import main as command
from gvgap_jax.sweep import compute
from tests.helpers import products


@contextlib.contextmanager
def compiled_fast():
    """Programs that run a few cells once: a third of the time goes into making them fast, which nobody sees."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """Folder of an experiment's tiny records, by its name: the command line makes them for the first test that asks."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def folder_of(name):
        folder = root / "records" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"), compiled_fast(), pytest.MonkeyPatch.context() as patch:
            found, lower = [], compute.lowered

            def lowered(*arguments):
                program = lower(*arguments)
                found.extend(products(program))
                return program

            patch.setattr(compute, "lowered", lowered)
            command.main(["run", name, "--preset", "tiny", "--out", str(folder)])
            if not (kept := products_of(folder)).exists():
                kept.write_text(json.dumps(found))
        return folder

    return folder_of


def products_of(folder):
    """Where the products of the programs are that made an experiment's tiny records."""
    return folder.with_suffix(".products")
