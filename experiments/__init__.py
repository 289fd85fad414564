"""One module a question.

Every module has ``MEANING`` (a number that grows when records change their meaning), ``QUESTION`` (the claim under
scrutiny and what its authors reported), ``Config`` (the settings of one point), ``PRESETS`` (grids over it),
``cells(config)``, the pure function ``run(program, cell)``, and ``findings(records)``, with at least one control.
``figures`` holds a module of the same name that draws its records.
"""

import os

# Every device is a thread already; BLAS threads on top of them fight for the same cores, and lose tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from experiments import (
    equivalence,
    estimators,
    h1_information,
    h2_regularisation,
    h3_optimisation,
    h4_data,
    h5_generalisation,
    h6a_model_sizes,
    h6b_horizon,
    h6c_verifier_order,
    main_table,
    phase_diagram,
    rival_coverage,
    rival_implicit,
    rival_misspecification,
    rival_overoptimisation,
    rival_plateau,
    rival_sparse,
    sample_complexity,
    token_tasks,
)

EXPERIMENTS = {
    "main_table": main_table,
    "equivalence": equivalence,
    "estimators": estimators,
    "h1_information": h1_information,
    "h2_regularisation": h2_regularisation,
    "h3_optimisation": h3_optimisation,
    "h4_data": h4_data,
    "h5_generalisation": h5_generalisation,
    "h6a_model_sizes": h6a_model_sizes,
    "h6b_horizon": h6b_horizon,
    "h6c_verifier_order": h6c_verifier_order,
    "sample_complexity": sample_complexity,
    "phase_diagram": phase_diagram,
    "rival_misspecification": rival_misspecification,
    "rival_coverage": rival_coverage,
    "rival_overoptimisation": rival_overoptimisation,
    "rival_implicit": rival_implicit,
    "rival_sparse": rival_sparse,
    "rival_plateau": rival_plateau,
    "token_tasks": token_tasks,
}
