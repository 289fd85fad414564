"""Records of a question at any grid with made-up results: what ``load`` would give, without computing anything."""

import dataclasses
import functools
import zlib

import jax
import numpy as np
import polars as pl

from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.cells import batches
from gvgap_jax.sweep.grid import points

CONSTANT = {"penalty": 1.0, "restricted_penalty": 1.0, "rlhf_penalty": 1.0, "dpo_penalty": 1.0, "steps": 10}


@functools.cache
def outputs(run, program, columns: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Names and types of what a program returns for a row of these columns."""
    shapes = {name: jax.ShapeDtypeStruct((), np.dtype(kind)) for name, kind in columns}
    found = jax.eval_shape(functools.partial(run, program), shapes)
    return {name: np.dtype(each.dtype).str for name, each in found.items()}


def records(module, grid: Grid) -> dict[str, pl.DataFrame]:
    """Tables whose results are made up: one program of each table is traced, to learn what their names are.

    Every field of ``Config`` is a column, as the records have it or else as the plan does, null where points with
    several of its values share the cell.
    """
    known: dict[str, dict[str, str]] = {}
    frames: dict[str, list[pl.DataFrame]] = {}
    fields = _fields(module, grid)
    for batch in batches(module.Config, module.cells, grid):
        kinds = tuple((name, values.dtype.str) for name, values in batch.columns.items())
        if batch.table not in known:
            known[batch.table] = outputs(module.run, batch.program, kinds)
        labels = [pl.lit(value).alias(name) for name, value in batch.labels.items()]
        frame = pl.DataFrame(batch.columns).select(*labels, pl.all())
        numbers = [name for name in batch.columns if name != "seed"]
        joined = [
            fields[_cell(batch.table, batch.program, batch.labels, row)] for row in frame.select(numbers).iter_rows()
        ]
        own = pl.DataFrame(joined, schema=_schema(module), orient="row", strict=False)
        made = _values(frame, known[batch.table])
        others = own.select(name for name in own.columns if name not in {*frame.columns, *made.columns})
        whole = pl.concat([frame, made, others], how="horizontal")
        frames.setdefault(batch.table, []).append(whole.with_columns(status=pl.lit("ok")))
    return {table: pl.concat(parts) for table, parts in frames.items()}


def _cell(table, program, labels, numbers) -> tuple:
    numbers = tuple(float(np.float32(value)) for value in numbers)
    return table, program, tuple(labels.items()), numbers


def _fields(module, grid: Grid) -> dict[tuple, dict]:
    """What the fields of the points of every cell are; None where they have several values."""
    found: dict[tuple, dict] = {}
    for point in points(module.Config, grid):
        own = dataclasses.asdict(point)
        for cell in module.cells(point):
            there = found.setdefault(_cell(cell.table, cell.program, cell.labels, cell.numbers.values()), dict(own))
            there.update({name: None for name, value in own.items() if there[name] != value})
    return found


def _schema(module) -> dict:
    kinds = {int: pl.Int64, float: pl.Float64, str: pl.String}
    return {field.name: kinds[type(field.default)] for field in dataclasses.fields(module.Config)}


def _values(frame: pl.DataFrame, kinds: dict[str, str]) -> pl.DataFrame:
    """Numbers between 0.2 and 0.8, other ones in every row and column."""
    columns = {}
    for name, kind in kinds.items():
        if name in CONSTANT or np.dtype(kind).kind != "f":
            columns[name] = np.full(len(frame), CONSTANT.get(name, 1), kind)
            continue
        random = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(str(frame.row(0)).encode())])
        columns[name] = random.uniform(0.2, 0.8, len(frame)).astype(kind)
    return pl.DataFrame(columns)
