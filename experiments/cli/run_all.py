"""Run every experiment at one preset, one after another, whatever becomes of one of them."""

import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from rich.markup import escape

from experiments.cli import runner
from experiments.cli.arguments import All
from experiments.kit.backends import named
from experiments.kit.findings import tally
from experiments.kit.presets import default_folder
from experiments.kit.terminal import console, signals_caught, stop, table, this_command
from gvgap_jax.sweep.compute import drop_programs


class Row(NamedTuple):
    """One line of the summary: an experiment with its outcome, or with the error that it ended in."""

    name: str
    outcome: runner.Outcome | None
    error: str = ""

    @property
    def trouble(self) -> str:
        """What went wrong, in a few words; empty where nothing did."""
        failed = self.outcome.report.failed if self.outcome else {}
        return self.error or (f"failed chunks: {len(failed)}" if failed else "")


def run_all(modules: Mapping, options: All) -> None:
    """Run the preset of every module, on its backend, into its default folder under ``options.out``, then sum up.

    Raises:
      ValueError: the options contradict each other.
      SystemExit: the run was stopped (status 128 + signal), or an experiment failed (status 1).
    """
    compute, rows, started = runner.computer(options), [], time.perf_counter()
    with signals_caught() as caught:
        for number, (name, module) in enumerate(modules.items(), start=1):
            elapsed = time.perf_counter() - started
            console.rule(f"{number} of {len(modules)}: {name} ({elapsed:.0f} s so far)", align="left")
            folder = default_folder(name, options.preset, options.out, options.backend)
            try:
                grid, own = module.PRESETS[options.preset], named(name, options.backend)
                outcome = runner.advance(own, module, grid, folder, compute, stopped=lambda: bool(caught))
                rows.append(Row(name, outcome))
            except Exception as error:  # the other experiments shall not wait for its repair
                rows.append(Row(name, None, f"{type(error).__name__}: {error}"))
                console.print(f"[red]{name} failed: {escape(rows[-1].error)}[/red]", soft_wrap=True)
            drop_programs()
            if caught:
                break
    _show(rows, f"preset {options.preset}: {len(rows)} experiments in {time.perf_counter() - started:.0f} s")
    if caught:
        stop(caught)
    failed = [row.name for row in rows if row.trouble]
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/red]. Try again with: {this_command()}")
        sys.exit(1)


def _show(rows: list[Row], title: str) -> None:
    summary = table(title, "experiment", "cells", "left", "compile s", "run s", "controls")
    for row in rows:
        summary.add_row(row.name, *_numbers(row.outcome))
    console.print(summary)
    console.print("controls: negative controls; one that is undecided has not passed")
    for row in rows:
        if row.trouble:
            console.print(f"[red]{row.name}: {escape(row.trouble)}[/red]", soft_wrap=True)


def _numbers(outcome: runner.Outcome | None) -> list[str]:
    if outcome is None:
        return [""] * 5
    report, controls = outcome.report, [finding for finding in outcome.findings or [] if finding.control]
    return [
        f"{report.total:,}",
        f"{report.left:,}",
        f"{report.compile_seconds:.1f}",
        f"{report.run_seconds:.1f}",
        tally(controls).replace(", ", "\n") if controls else "",
    ]
