"""Learning curves of a run while it runs: in Parquet beside its checkpoints, in TensorBoard, in Weights & Biases.

Every dispatch is one table: a row for each step of each run. A file is named by its last step, so that a resumed
run writes over what came after its checkpoint and doubles nothing.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import polars as pl

from gvgap_jax.runtime.files import Damaged, Folder, Provenance, chunk_file, folder_at, read, save, set_aside
from gvgap_jax.runtime.packages import optional
from gvgap_jax.training.loop import Curves

TABLE = "curves"

Write = Callable[[pl.DataFrame], None]
Writer = Callable[[int], AbstractContextManager[Write]]
"""Steps that are already done -> a context whose value takes the tables of the later ones."""


def table(curves: Curves, runs: np.ndarray, evaluate_every: int) -> pl.DataFrame:
    """Curves [S, K] of the numbered runs as a table, without the steps after a run had stopped.

    ``held_out_loss`` is null where nothing was evaluated.
    """
    count, steps = curves["step"].shape
    columns = {name: np.asarray(values).reshape(-1) for name, values in curves.items()}
    rows = pl.DataFrame({"run": np.repeat(runs[:count], steps), **columns}).filter("running").drop("running")
    rows = rows.select("run", "step", "loss", pl.exclude("run", "step", "loss"))  # compiled programs sort names
    if "held_out_loss" in rows.columns:
        evaluated = pl.col("step") % evaluate_every == 0
        rows = rows.with_columns(pl.when(evaluated).then("held_out_loss").alias("held_out_loss"))
    return rows


def save_curves(folder: Folder, done: int, rows: pl.DataFrame, made_by: Provenance) -> None:
    """Store the table of the dispatch that ends after ``done`` steps."""
    save(folder, f"{TABLE}-{done:09d}", rows, made_by)


def load_curves(path: str | Folder, until: int | None = None) -> list[pl.DataFrame]:
    """The tables stored in a folder, in the order of steps, up to that of the dispatch that ends at ``until``."""
    folder = folder_at(path)
    ends = sorted(int(file.stem.rpartition("-")[2]) for file in folder.glob(f"{TABLE}-*.parquet"))
    wanted = [end for end in ends if until is None or end <= until]
    return [read(chunk_file(folder, f"{TABLE}-{end:09d}")) for end in wanted]


def damaged_from(folder: Folder) -> float:
    """The first step whose table is damaged, infinity where none is; that table and all later ones are set aside."""
    found = math.inf
    for file in sorted(folder.glob(f"{TABLE}-*.parquet")):
        try:
            read(file)
        except (Damaged, OSError):
            found = min(found, int(file.stem.rpartition("-")[2]))
        if found < math.inf:
            set_aside(file)
    return found


def tensorboard(folder: str) -> Writer:
    """Scalars for TensorBoard, one tag a column and run; needs tensorboardX.

    Raises:
      ValueError: it is not installed.
    """
    package = optional("tensorboardX")

    @contextlib.contextmanager
    def opened(done: int) -> Iterator[Write]:
        with package.SummaryWriter(folder, purge_step=done + 1 if done else None) as writer:

            def write(rows: pl.DataFrame):
                for step, values in _scalars(rows):
                    for name, value in values.items():
                        writer.add_scalar(name, value, step)

            yield write

    return opened


def wandb(**settings: Any) -> Writer:
    """A run of Weights & Biases, with the settings of ``wandb.init``; give it an ``id`` to resume it.

    It takes every step once, so that many runs must fit into memory at once.

    Raises:
      ValueError: wandb is not installed.
    """
    package = optional("wandb")

    @contextlib.contextmanager
    def opened(done: int) -> Iterator[Write]:
        del done  # it refuses steps that it has
        with package.init(resume="allow", **settings) as run:

            def write(rows: pl.DataFrame):
                for step, values in _scalars(rows):
                    run.log(values, step=step)

            yield write

    return opened


def _scalars(rows: pl.DataFrame) -> Iterator[tuple[int, dict[str, float]]]:
    """Steps and their numbers, named by column, and by run where there are several."""
    many = bool((rows["run"] > 0).any())
    for (step,), group in rows.group_by("step", maintain_order=True):
        values = {}
        for row in group.drop("step").iter_rows(named=True):
            run = row.pop("run")
            values |= {f"{name}/{run}" if many else name: value for name, value in row.items() if value is not None}
        yield int(step), values
