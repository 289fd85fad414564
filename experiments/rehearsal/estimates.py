"""The arithmetic of ``--dry_run`` beside what the compiler found, program by program."""

from collections.abc import Mapping
from typing import NamedTuple

from experiments.rehearsal.of_recipe import START, part, tasks_of
from experiments.tldr.options import Options
from gvgap_jax.runtime.targets import Target


class Difference(NamedTuple):
    """One program: when it is estimated to be worst, and bytes on a device, estimated and compiled."""

    name: str
    worst: str
    estimate: float
    compiled: float

    @property
    def ratio(self) -> float:
        """Estimate over what was compiled."""
        return self.estimate / self.compiled


def differences(options: Options, target: Target, compiled: Mapping[str, float]) -> list[Difference]:
    """Compiled programs of the recipe, by name and bytes; the starts of trainings have no estimate."""
    tasks, found = tasks_of(options, target), []
    for name, needed in compiled.items():
        if not name.endswith(START):
            task = part(name, tasks)
            memory = task.kind.needed(task.work)
            found.append(Difference(name, memory.moment, memory.total, needed))
    return found
