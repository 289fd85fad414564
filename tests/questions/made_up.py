"""Records of a question at any grid with made-up results: what ``load`` would give, without computing anything."""

import functools
import zlib

import jax
import numpy as np
import polars as pl
import polars.selectors as cs

from gvgap_jax.sweep import Grid, make_plan
from gvgap_jax.sweep.cells import Batch
from gvgap_jax.sweep.plan import fields_of

CONSTANT = {"penalty": 1.0, "restricted_penalty": 1.0, "rlhf_penalty": 1.0, "dpo_penalty": 1.0, "steps": 10}


_TRACED: dict[tuple, dict[str, str]] = {}


def outputs(run, batch: Batch) -> dict[str, str]:
    """Names and types of what is measured of a row; one program of each table is traced, all have the same."""
    key = run, batch.table, tuple(batch.labels), tuple(batch.numbers)
    if key not in _TRACED:
        shapes = {name: jax.ShapeDtypeStruct((), values.dtype) for name, values in batch.rows(0, 1).items()}
        found = jax.eval_shape(functools.partial(run, batch.program), shapes)
        _TRACED[key] = {name: np.dtype(each.dtype).str for name, each in found.items()}
    return _TRACED[key]


def records(module, grid: Grid) -> dict[str, pl.DataFrame]:
    """Tables whose results are made up, with the fields of ``Config`` as ``load`` has them."""
    frames: dict[str, list[pl.DataFrame]] = {}
    plan = make_plan("made_up", module, grid)
    constant = [pl.lit(values[0]).alias(name) for name, values in plan.grid.axes.items() if len(values) == 1]
    fields = fields_of(plan).with_columns(constant)
    for number, batch in enumerate(plan.batches):
        labels = [pl.lit(value).alias(name) for name, value in batch.labels.items()]
        frame = pl.DataFrame(batch.columns).select(*labels, pl.all())
        made = _values(frame, outputs(module.run, batch))
        joined = pl.concat(len(batch.seeds) * [fields.filter(batch=number)])
        others = joined.select(cs.exclude("batch", *frame.columns, *made.columns))
        whole = pl.concat([frame, made, others], how="horizontal")
        frames.setdefault(batch.table, []).append(whole.with_columns(status=pl.lit("ok")))
    return {table: pl.concat(parts) for table, parts in frames.items()}


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
