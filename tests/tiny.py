"""Every experiment at a size that takes a second: options of ``python -m experiments run NAME``."""

_OPTIONS = {
    "sample_complexity": "--grid.horizon 2 --grid.pairs 8 64 512 --seeds 2",
    "equivalence": "--grid.horizon 2 --grid.pairs 16 --seeds 2",
    "phase_diagram": "--grid.horizon 2 2 2 --grid.policy tabular interactions interactions --grid.policy_order 1 1 2 "
    "--grid.gold_order 1 2 --grid.verifier_order 1 2 --grid.pairs 64 1024 --grid.beta 1 --seeds 2",
    "rival_implicit": "--grid.vocabulary 4 --grid.vertices 3 --grid.pairs 32 --grid.beta 0.25 1 --seeds 2",
    "rival_sparse": "--grid.horizon 2 --grid.terms 1 3 --grid.pairs 32 128 --seeds 2",
    "rival_plateau": "--grid.vocabulary 3 --grid.dimension 2 --grid.samples 64 --grid.pairs 64 512 --seeds 2",
}

TINY = {name: options.split() for name, options in _OPTIONS.items()}
