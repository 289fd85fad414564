"""Tiny records of experiments, made when a test first asks for them."""

import contextlib
import functools
import os

import jax
import pytest
from filelock import FileLock

from experiments.cli import main as command


@contextlib.contextmanager
def compiled_fast():
    """Programs that run a few cells once: a third of the time goes into making them fast, which nobody sees."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
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
        with FileLock(f"{folder}.lock"), compiled_fast():
            command.main(["run", name, "--preset", "tiny", "--out", str(folder)])
        return folder

    return folder_of
