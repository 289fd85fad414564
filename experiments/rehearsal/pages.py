"""Rehearsals as pages of documentation have them."""

from collections.abc import Sequence

from experiments.kit.terminal import PROGRAM, markdown
from experiments.rehearsal.table import ESTIMATED, HEADINGS, Rehearsed, cells, estimated, of_a_row, summary

BY_DEVICE = ("program", "devices", "cells at once", "a fit")


def of_run(line: str, done: Rehearsed) -> str:
    """One rehearsal: its command, its tables, and what is said below."""
    left = f" {done.left:,} more programs were not compiled." if done.left else ""
    rows = [[each.replace("\n", ", ") for each in cells(row, done.target)] for row in done.rows]
    parts = [f"```bash\n{PROGRAM} rehearse {line}\n```", markdown(HEADINGS, rows)]
    parts.append(summary(done, None).replace("\n", " ") + left)
    parts += [f"- {sentence}" for sentence in done.wrong]
    if done.differences:
        parts.append("Memory by the arithmetic of `--dry_run`, and by the compiler:")
        parts.append(markdown(ESTIMATED, [estimated(each) for each in done.differences]))
    return "\n\n".join(parts)


def by_device(sweeps: Sequence[Rehearsed]) -> str:
    """One sweep rehearsed for several kinds of devices: of each program, cells at once and what a fit takes."""
    programs: dict[str, list[tuple[str, str, str, str]]] = {}
    for done in sweeps:
        for row in done.rows:
            if row.facts:
                devices = f"{len(done.target.devices)} x {done.target.chip.name}"
                found = row.program.name, devices, f"{row.program.rows:,}", of_a_row(row, done.target)
                programs.setdefault(row.program.name, []).append(found)
    everywhere = [rows for rows in programs.values() if len(rows) == len(sweeps)]
    return markdown(BY_DEVICE, [row for rows in everywhere for row in rows])
