"""Every experiment at a size that takes a second: options of ``python -m experiments run NAME``."""

_OPTIONS = {
    "sample_complexity": "--grid.horizon 2 --grid.pairs 8 64 512 --seeds 2",
    "equivalence": "--grid.horizon 2 --grid.pairs 16 --seeds 2",
    "phase_diagram": "--grid.horizon 2 2 2 --grid.policy tabular interactions interactions --grid.policy_order 1 1 2 "
    "--grid.gold_order 1 2 --grid.verifier_order 1 2 --grid.pairs 64 1024 --grid.beta 1 --seeds 2",
    "h6b_horizon": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
    "h6c_verifier_order": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
}

TINY = {name: options.split() for name, options in _OPTIONS.items()}
