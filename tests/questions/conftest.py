"""Tiny records of experiments, made when a test first asks for them."""

import functools
import os

import pytest
from filelock import FileLock

from experiments.cli import main as command


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """Folder of an experiment's tiny records, by its name: the command line makes them for the first test that asks."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @functools.cache
    def folder_of(name):
        folder = root / "records" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            command.main(["run", name, "--preset", "tiny", "--out", str(folder)])
        return folder

    return folder_of
