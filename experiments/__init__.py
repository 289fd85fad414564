"""One module a question.

Every module has ``MEANING`` (a number that grows when records change their meaning), ``QUESTION`` (the claim under
scrutiny and what its authors reported), ``Config`` (the settings of one point), ``PRESETS`` (grids over it),
``cells(config)``, the pure function ``run(program, cell)``, and ``findings(records)``, with at least one control.
``figures`` holds a module of the same name that draws its records.
"""

import os

# Every device is a thread already; BLAS threads on top of them fight for the same cores, and lose tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from experiments import equivalence, h6b_horizon, h6c_verifier_order, phase_diagram, sample_complexity

EXPERIMENTS = {
    "sample_complexity": sample_complexity,
    "equivalence": equivalence,
    "phase_diagram": phase_diagram,
    "h6b_horizon": h6b_horizon,
    "h6c_verifier_order": h6c_verifier_order,
}
