"""``python -m experiments compare A B``: what differs between two folders of records, and whether beyond noise."""

from typing import Any, NamedTuple

from rich.markup import escape

from experiments.kit import points
from experiments.kit.backends import of_name, on_backend
from experiments.kit.comparison import Cells, Difference, compared, settings_of
from experiments.kit.findings import Finding, matched
from experiments.kit.terminal import console, table
from experiments.questions import questions
from gvgap_jax.runtime.messages import unknown
from gvgap_jax.sweep import Plan, folder_at, make_plan
from gvgap_jax.sweep.identity import grids_of
from gvgap_jax.sweep.look import Look, look

MOST = 12  # differences of a table that are shown


class _Side(NamedTuple):
    """One of the folders: what it holds, the module that made its records, their plan, and themselves."""

    seen: Look
    question: str
    module: Any
    plan: Plan
    records: points.Records


def _side(folder: str) -> _Side:
    seen = look(folder_at(folder))
    missing = seen.missing()
    if missing:
        wrong = f" {seen.complaint()}" if seen.wrong else ""
        raise ValueError(
            f"{folder} is not complete: {len(missing):,} of {len(seen.plan):,} chunks are missing.{wrong} Run the "
            "command that makes its records first."
        )
    experiment = seen.manifest["experiment"]
    question, backend = of_name(experiment)
    modules = on_backend(questions(), backend)
    if question not in modules:
        raise ValueError(f"{folder}: {unknown('experiment', question, modules)}")
    plan = make_plan(experiment, modules[question], grids_of(seen.manifest)[-1])
    return _Side(seen, question, modules[question], plan, points.records_of(folder))


def _identity(side: _Side) -> dict[str, str]:
    """What was run and what made it, a text each."""
    stored, grid, makers = side.seen.manifest, side.plan.grid, side.seen.makers.values()
    run = {"experiment": stored["experiment"], "meaning": stored["meaning"]}
    run |= {name: ", ".join(map(points.shown, values)) for name, values in grid.axes.items()}
    run |= {"zipped": "; ".join(map(", ".join, grid.zipped)), "seeds": grid.seeds, "first seed": grid.first_seed}
    made = {
        "revision": {made_by["revision"] for made_by in makers},
        "versions": {", ".join(map(" ".join, made_by["versions"].items())) for made_by in makers},
        "device": {f"{made_by['devices']} × {made_by['device']}" for made_by in makers},
    }
    return {name: str(value) for name, value in run.items()} | {
        name: " and ".join(sorted(values)) for name, values in made.items()
    }


def compare(a: str, b: str) -> None:
    """Show what differs between two folders of records.

    And whether it is beyond noise: plans, cells, numbers and findings. Shipped records (experiments/records) are
    folders like any other.

    Args:
      a: a folder of records.
      b: another one, of the same question.
    """
    one, other = _side(a), _side(b)
    if one.question != other.question:
        raise ValueError(
            f"{a} holds records of {one.question}, and {b} of {other.question}: compare two of one question."
        )
    _show_plans(one, other)
    cells, differences = [], []
    for name in [name for name in one.records if name in other.records]:
        left, right = one.records[name], other.records[name]
        settings = [each for each in settings_of(one.plan, name, left.columns) if each in right.columns]
        seen, found = compared(name, left, right, settings)
        cells.append(seen)
        differences += found
    _show_cells(cells)
    _show_differences(differences)
    _show_findings(*(points.findings(each.module, each.records) for each in (one, other)))


def _show_plans(one: _Side, other: _Side) -> None:
    left, right = _identity(one), _identity(other)
    shown = table("what was run, where it differs", "", "A", "B")
    for name in dict.fromkeys([*left, *right]):
        if left.get(name) != right.get(name):
            shown.add_row(name, escape(left.get(name, "–")), escape(right.get(name, "–")))
    for column in shown.columns[1:]:
        column.no_wrap, column.justify = False, "left"
    console.print(shown if shown.row_count else "The same plan, made by the same versions.")


def _show_cells(cells: list[Cells]) -> None:
    shown = table("cells", "table", "in A alone", "in B alone", "in both", "compared")
    for each in cells:
        how = "within seeds" if each.paired else "two samples of seeds"
        counts = (f"{count:,}" for count in (each.only_one, each.only_other, each.both))
        shown.add_row(each.table, *counts, how if each.both else "not")
    console.print(shown)


def _show_differences(differences: list[Difference]) -> None:
    ordered = sorted(differences, key=lambda each: (each.table, -each.beyond, -abs(each.other - each.one)))
    for name in dict.fromkeys(each.table for each in ordered):
        mine = [each for each in ordered if each.table == name]
        shown = table(f"{name}: B - A where it is largest", "number", "beyond noise", "A", "B", "interval of B - A")
        for each in mine[:MOST]:
            where = ", ".join(f"{key} {points.shown(value)}" for key, value in each.where.items())
            shown.add_row(
                escape(f"{each.number} at {where}" if where and each.one != each.other else each.number),
                f"{each.beyond:,} of {each.cells:,}",
                f"{each.one:.4g}",
                f"{each.other:.4g}",
                f"{each.low:.3g} to {each.high:.3g}",
            )
        console.print(shown)
        if len(mine) > MOST:
            console.print(f"and {len(mine) - MOST} numbers more, which differ less", highlight=False)
    if differences:
        console.print(
            "beyond noise: the interval, which holds for all cells and numbers of a table together with 95 %, is on "
            "one side of 0, and the difference is more than solvers' tolerances leave",
            highlight=False,
        )


def _show_findings(one: list[Finding], other: list[Finding]) -> None:
    shown = table("findings", "claim", "A", "B")
    for column in shown.columns[1:]:
        column.no_wrap, column.justify = False, "left"
    for claim, left, right in matched(one, other):
        shown.add_row(escape(claim), _words(left), _words(right))
    console.print(shown)


def _words(finding: Finding | None) -> str:
    if finding is None:
        return "–"
    seen = finding.interval
    unit = f" {finding.unit}" if finding.unit else ""
    return escape(f"{seen.estimate:.3g}{unit} ({seen.low:.3g} to {seen.high:.3g}): {finding.verdict}")
