"""The arithmetic of ``--dry_run`` beside what the compiler found, program by program."""

from collections.abc import Sequence

from experiments.rehearsal.of_recipe import START, part, tasks_of
from experiments.rehearsal.rows import Difference, Row
from experiments.tldr.options import Options
from gvgap_jax.runtime.targets import Target


def differences(options: Options, target: Target, rows: Sequence[Row]) -> list[Difference]:
    """Of the recipe's programs that compiled; the starts of trainings have no estimate."""
    tasks, found = tasks_of(options, target), []
    for row in rows:
        if row.facts and not row.program.name.endswith(START):
            task = part(row.program.name, tasks)
            memory = task.kind.needed(task.work)
            found.append(Difference(row.program.name, memory.moment, memory.total, row.facts.memory))
    return found
