"""Points: findings are computed, and figures drawn, within each point of the axes that a question does not take itself.

A question names in ``QUESTION.axes`` the fields of its ``Config`` whose values its findings take together, compare or
sweep. Any other field that has several values in the records is an axis that nothing may be averaged over: its points
are the combinations of such values that occur. Rows that have no value of a field (null) do not depend on it and
belong to all of its points.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs
from matplotlib.figure import Figure

from experiments.kit.findings import Finding, decided
from experiments.kit.plots import over_all
from gvgap_jax.runtime.files import Folder
from gvgap_jax.sweep import folder_at, load
from gvgap_jax.sweep.records import folder_tables

Records = dict[str, pl.DataFrame]


class Point(NamedTuple):
    """The records of one point, and its settings: the value of each axis; none where nothing is to be told apart."""

    settings: dict[str, Any]
    records: Records

    @property
    def suffix(self) -> str:
        """What tells the names of its figures from those of other points: ``_beta2_horizon3``."""
        return "".join(f"_{name}{shown(value)}" for name, value in self.settings.items())


def records_of(folder: str | Path | Folder) -> Records:
    """All records of a folder, by table.

    Raises:
      FileNotFoundError: the folder holds no records, or none of one of its tables.
      ValueError: they are damaged.
    """
    root = folder_at(folder)
    return {table: load(root, table) for table in folder_tables(root)}


def findings(module, records: Records) -> list[Finding]:
    """The findings of a question within each point, decided together: intervals are wider by all of their number.

    A claim begins with the settings of its point, but for those that its records do not depend on. The primary finding
    is the first claim of the first point, which is that of the fields' defaults where it is there.

    Raises:
      ValueError: records are missing, or a field has other values in some seeds than in others.
    """
    told: list[Finding] = []
    for point in points(module, records):
        for each in module.findings(point.records):
            free = _free_of(each)
            named = words({name: value for name, value in point.settings.items() if name not in free})
            claim = ": ".join(filter(None, (named, each.claim)))
            if free.isdisjoint(point.settings) or claim not in {other.claim for other in told}:
                told.append(each._replace(claim=claim, point=named))
    return decided(told)


def _free_of(finding: Finding) -> set[str]:
    """Fields that its records do not depend on: another point that differs in these alone says the same."""
    sample = finding.estimate.sample
    return {name for name, values in sample.axes.items() if len(sample.seeds) and not values}


def figures(module, records: Records) -> Iterator[tuple[str, Figure | pl.DataFrame]]:
    """Title and figure, or table of numbers, of every figure of a question at every point, which both name.

    Raises:
      ValueError: as ``findings``.
    """
    for point in points(module, records):
        for title, drawn in module.draw(point.records).items():
            if isinstance(drawn, Figure) and point.settings:
                over_all(drawn, words(point.settings))
            yield title + point.suffix, drawn


def words(settings: Mapping[str, Any]) -> str:
    """Settings as a claim names them: ``beta 0.25, gold order 2, uniform reference``."""
    return ", ".join(
        reference_name(value) if name == "reference_scale" else f"{name.replace('_', ' ')} {shown(value)}"
        for name, value in settings.items()
    )


def reference_name(scale: float) -> str:
    """A reference policy, by the standard deviation of its logits."""
    return f"reference of s.d. {scale:g}" if scale else "uniform reference"


def points(module, records: Records) -> list[Point]:
    """The points of the axes that the question does not take itself, those of the defaults first, then ascending.

    Raises:
      ValueError: a field has other values in some seeds than in others.
    """
    defaults = {field.name: _single(field.default) for field in dataclasses.fields(module.Config)}
    outside = [name for name in defaults if name not in module.QUESTION.axes]
    # A column of the records is in single precision; the same field, joined to another table, may not be.
    narrow = (cs.by_name(*outside, require_all=False) & cs.float()).cast(pl.Float32)
    records = {table: frame.with_columns(narrow) for table, frame in records.items()}
    axes = {}
    for name in outside:
        values = [set(frame[name].drop_nulls().unique()) for frame in records.values() if name in frame.columns]
        if any(len(of_table) > 1 for of_table in values):
            axes[name] = sorted(set().union(*values), key=lambda value, name=name: (value != defaults[name], value))

    def place(settings: dict) -> list[int]:
        return [order.index(settings[name]) if name in settings else -1 for name, order in axes.items()]

    return [_within(records, settings) for settings in sorted(_combinations(records.values(), list(axes)), key=place)]


def _combinations(frames: Iterable[pl.DataFrame], axes: list[str]) -> list[dict]:
    """The settings that occur together, in one table or in several that agree where both have a value.

    Tables that do not agree with any other stand for themselves.
    """
    kinds: dict[tuple, dict[tuple, dict]] = {}
    for frame in frames:
        for row in frame.select(name for name in axes if name in frame.columns).unique(maintain_order=True).to_dicts():
            settings = {name: row[name] for name in axes if row.get(name) is not None}
            kinds.setdefault(tuple(settings), {})[tuple(settings.values())] = settings
    found: list[dict] = [{}]
    for names in sorted(kinds, key=len, reverse=True):
        others = list(kinds[names].values())
        joined = [one | other for one in found for other in others if _agree(one, other)]
        alone = [each for each in (*found, *others) if not any(each.items() <= both.items() for both in joined)]
        found = joined + alone
    return found


def _agree(one: dict, other: dict) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _within(records: Records, settings: dict) -> Point:
    """The rows of a point; a table that has none there is left out, as where its settings are run alone."""
    kept = {}
    for table, frame in records.items():
        there = settings.keys() & set(frame.columns)
        rows = frame.filter(*(pl.col(name).is_null() | (pl.col(name) == settings[name]) for name in there))
        seeds, every = rows["seed"].n_unique(), frame["seed"].n_unique()
        if 0 < seeds < every:
            raise ValueError(
                f"{words(settings)}: the table {table!r} has records of {seeds} of its {every} seeds there. All seeds "
                f"need the same settings: run the same grid again; and what ``run`` returns must not have the name of "
                f"a field of Config."
            )
        if len(rows) or not len(frame):
            kept[table] = rows
    return Point(settings, kept)


def shown(value) -> str:
    """A value of a setting as it is written: a whole number without its decimal point."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _single(value):
    return float(np.float32(value)) if isinstance(value, float) else value
