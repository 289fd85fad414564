"""One module a question.

Every module has ``MEANING`` (a number that grows when records change their meaning), ``Config`` (the
settings of one point), ``PRESETS`` (grids over it), ``cells(config)``, the pure function ``run(program, cell)``,
and ``findings(records)``; its docstring is the question. ``figures`` holds a module of the same name that draws
its records.
"""

import os

import platformdirs

# Every device is a thread already; BLAS threads on top of them fight for the same cores, and lose tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compiled programs are kept for the next process. jax reads these variables when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", platformdirs.user_cache_dir("gvgap_jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from experiments import equivalence, phase_diagram, sample_complexity

EXPERIMENTS = {
    "sample_complexity": sample_complexity,
    "equivalence": equivalence,
    "phase_diagram": phase_diagram,
}
