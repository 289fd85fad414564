"""Rows that say at once what they measured, and rows that go wrong in every way; ``main`` measures them all.

``python -m tests.benchmarks.made_up_rows FOLDER [ROW]``: the process kills itself as soon as that row is stored.
"""

import os
import signal
import sys
import time
from pathlib import Path

from experiments.benchmarks.accelerators import run, stored
from experiments.benchmarks.accelerators.rows import ALONE, AT_ONCE, FITS, TORCH_FIT, Row
from experiments.benchmarks.accelerators.stored import Measured
from gvgap_jax.runtime.devices import use_all_cores

NOTE = "MADE_UP_ROWS_NOTE"  # variable of the environment: a file in which every row leaves a line


def steady(unit, amount, seconds, floors):
    """Measured without measuring."""
    if NOTE in os.environ:
        with Path(os.environ[NOTE]).open("a") as file:
            file.write(f"{amount}\n")
    return Measured(unit, amount, list(seconds), 1.5, floors, "published" if floors else "", "made up")


def raises(kind, message):
    raise {"ValueError": ValueError, "RuntimeError": RuntimeError}[kind](message)


def out_of_memory():
    import jax

    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore")


def hangs(note):
    Path(note).write_text(str(os.getpid()))
    time.sleep(600)


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def rows():
    def row(name, amount, seconds, **floors):
        named = {floor.replace("_", " "): value for floor, value in floors.items()}
        settings = {"unit": "fits", "amount": amount, "seconds": seconds, "floors": named}
        return Row(name, 1.0, steady, settings)

    return (
        row("copy", 90, (3.0, 2.0, 4.0), memory=1.5),
        row(FITS, 1000, (0.5,), matrix_units=0.1, dispatch=0.25),
        row(TORCH_FIT, 6, (3.0,)),
        row(AT_ONCE, 32, (2.0,)),
        row(ALONE, 32, (64.0,)),
    )


if __name__ == "__main__":
    use_all_cores()
    folder, *last = sys.argv[1:]
    save = stored.save

    def save_and_die(where, one):
        save(where, one)
        if one.key.row in last:
            os.kill(os.getpid(), signal.SIGKILL)

    run.stored.save = save_and_die
    run.measure(None, rows(), Path(folder), 5)
