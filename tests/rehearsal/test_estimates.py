"""The arithmetic of a dry run beside compiled programs, by name."""

from experiments.rehearsal.estimates import differences
from experiments.rehearsal.of_recipe import tasks_of
from tests.rehearsal.test_nearest import of_two, options_of
from tests.rehearsal.test_rows import FACTS, row


def test_every_program_is_beside_the_estimate_of_its_part():
    options, target = options_of(), of_two(10)
    estimates = {task.name: task.kind.needed(task.work) for task in tasks_of(options, target)}
    compiled = {"DPO: start": 1, "DPO: 1 steps": 2000, "reference of DPO": 3000, "online: DPO: 4 steps": 4000}
    rows = [row(name=name, facts=FACTS._replace(memory=size)) for name, size in compiled.items()]
    found = differences(options, target, [*rows, row(name="DPO: 2 steps", facts=None, wrong="does not compile")])
    assert [(each.name, each.compiled) for each in found] == [*compiled.items()][1:]
    for each, part in zip(found, ("DPO", "reference of DPO", "online: DPO"), strict=True):
        assert (each.estimate, each.worst) == (estimates[part].total, estimates[part].moment)
        assert each.ratio == each.estimate / each.compiled
    assert len({each.estimate for each in found}) == 3
