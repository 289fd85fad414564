"""One module a question.

Every module has ``MEANING`` (a number that grows when records change their meaning), ``Config``,
``PRESETS``, ``batches(config)``, the pure function ``run(program, cell)``, and ``findings(records)``;
its docstring is the question. ``figures`` holds a module of the same name that draws its records.
"""

from experiments import equivalence, sample_complexity

EXPERIMENTS = {"sample_complexity": sample_complexity, "equivalence": equivalence}
