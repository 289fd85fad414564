"""Run one experiment into a folder of records and print its verdicts."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl
from rich.markup import escape
from rich.table import Table

import experiments
import gvgap_jax
from experiments.cli.arguments import grid_of, part_of
from experiments.kit import points
from experiments.kit.backends import named
from experiments.kit.findings import DECIDED_NONE, SIMULTANEOUS, Finding, doubtful, tally
from experiments.kit.presets import default_folder
from experiments.kit.terminal import console, explain, signals_caught, stop, table, this_command
from gvgap_jax.runtime.files import Folder
from gvgap_jax.sweep import Grid, folder_at, open_folder, plan_in, run_plan
from gvgap_jax.sweep.engines import on_ray, on_slurm
from gvgap_jax.sweep.records import folder_tables
from gvgap_jax.sweep.run import Report


class Outcome(NamedTuple):
    """What a run of one experiment came to.

    Attributes:
      report: what it cost.
      findings: None as long as chunks are missing.
    """

    report: Report
    findings: list[Finding] | None


def run(name: str, module, options) -> None:
    """Run an experiment, on the backend that its command-line options say (``arguments.Options``), as they say."""
    out = options.out or default_folder(name, options.preset, backend=options.backend)
    grid = grid_of(options, module.PRESETS[options.preset])
    execute(named(name, options.backend), module, grid, out, computer(options))


def computer(options) -> Callable[..., Report]:
    """What computes a plan into a folder, as ``arguments.Computing`` says.

    Raises:
      ValueError: the options contradict each other, or what they ask for is not installed.
    """
    part = part_of(options.shard)
    if options.engine == "slurm":
        if part != (0, 1):
            raise ValueError("--engine slurm makes the shards itself: give --slurm.jobs instead of --shard.")
        return partial(on_slurm, options=options.slurm)
    engine = None if options.engine == "local" else on_ray(options.ray, (gvgap_jax, experiments))
    return partial(run_plan, part=part, engine=engine)


def execute(name: str, module, grid: Grid, out: str | Path, compute: Callable[..., Report] = run_plan) -> None:
    """Compute what is missing in the folder ``out``, then print the findings once all of it is there.

    Raises:
      SystemExit: the run was stopped (status 128 + signal), or some chunks failed (status 1).
    """
    with signals_caught() as caught:
        outcome = advance(name, module, grid, out, compute, stopped=lambda: bool(caught))
    if caught:
        stop(caught)
    if outcome.report.failed:
        console.print(f"The other chunks are stored. Try the failed ones again with: {this_command()}", soft_wrap=True)
        sys.exit(1)


def advance(
    name: str, module, grid: Grid, out: str | Path, compute: Callable[..., Report], stopped: Callable[[], bool]
) -> Outcome:
    """Compute what is missing in the folder ``out`` until it is there or ``stopped``; print what came of it."""
    folder = folder_at(out)
    plan = plan_in(folder, name, module, grid)
    for problem in open_folder(folder, plan):
        console.print(f"[yellow]{problem}[/yellow]", highlight=False, soft_wrap=True)
    console.print(f"[bold]{name}[/bold] into {folder}")
    report = compute(plan, folder, stopped=stopped)
    console.print(str(report), highlight=False, soft_wrap=True)
    for chunk, reason in report.failed.items():
        console.print(f"[red]{chunk} failed: {escape(reason)}[/red]", soft_wrap=True)
    done = not stopped() and not report.failed
    return Outcome(report, finish(name, module, folder) if done else None)


def finish(name: str, module, folder: Folder) -> list[Finding] | None:
    """Print and return the findings, or print what is left for other shards to do."""
    missing = folder_tables(folder)
    if any(missing.values()):
        left = ", ".join(f"{count} of {table!r}" for table, count in missing.items() if count)
        console.print(f"Chunks left for other shards: {left}. Findings are printed when all of them are there.")
        return None
    records = points.records_of(folder)
    findings = points.findings(module, records)
    show(name, findings, records)
    return findings


def show(name: str, findings, records: dict[str, pl.DataFrame]) -> None:
    """Print the claims with their intervals and verdicts, how the controls came out, and how many fits to distrust."""
    if findings:
        console.print(_table(name, findings))
        console.print(f"[dim]{SIMULTANEOUS}[/dim]", highlight=False)
        console.print(f"controls: {tally([finding for finding in findings if finding.control])}", highlight=False)
        explain(*(finding.claim for finding in findings))
    else:
        console.print(f"{name}: {DECIDED_NONE}", highlight=False, soft_wrap=True)
    for sentence in doubtful(records):
        console.print(f"[yellow]{sentence}[/yellow]")


def _table(name: str, findings) -> Table:
    rows = table(f"{name}: estimates with intervals over seeds", "claim", "estimate", "interval", "seeds", "verdict")
    rows.columns[-1].justify = "left"
    for finding in findings:
        seen = finding.interval
        rows.add_row(
            escape(_words(finding)),
            f"{seen.estimate:.3g}",
            f"{seen.low:.3g} to {seen.high:.3g}",
            f"{seen.seeds} of {seen.seeds + seen.failed}" if seen.failed else f"{seen.seeds}",
            finding.verdict.partition(" within")[0].partition(":")[0],
        )
    return rows


def _words(finding: Finding) -> str:
    """A claim as it stands in the table: which kind of finding it is, its unit, what is estimated, and what to know."""
    kind = "primary: " if finding.primary else "control: " if finding.control else ""
    unit = f" [{finding.unit}]" if finding.unit else ""
    return ". ".join(filter(None, (f"{kind}{finding.claim}{unit}", finding.estimand, finding.theory, finding.remark)))
