"""Experiments on the generation-verification gap: ``python -m experiments list``.

Rooms, each importing only those before it: ``kit``, ``questions``, ``report``, ``tldr``, ``benchmarks``, ``cli``.
"""

import os

# Every device is a thread already; BLAS threads on top of them fight for the same cores, and lose tenfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
