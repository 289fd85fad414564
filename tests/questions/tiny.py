"""Every experiment at a size that takes a second: options of ``python -m experiments run NAME``."""

_OPTIONS = {
    "sample_complexity": "--grid.horizon 2 --grid.pairs 8 64 512 --seeds 2",
    "equivalence": "--grid.horizon 2 --grid.pairs 16 --seeds 2",
    "phase_diagram": "--grid.horizon 2 2 2 --grid.policy tabular interactions interactions --grid.policy_order 1 1 2 "
    "--grid.gold_order 1 2 --grid.verifier_order 1 2 --grid.pairs 64 1024 --grid.beta 1 --seeds 2",
    "estimators": "--grid.horizon 1 --grid.gold_order 1 --grid.prompts 16 64 --seeds 2",
    "main_table": "--grid.horizon 1 --grid.pairs 80 --grid.candidates 2 --seeds 2",
    "h1_information": "--grid.horizon 2 --grid.pairs 64 --seeds 2",
    "h5_generalisation": "--grid.horizon 2 --grid.gold_order 1 2 --grid.width 2 --grid.pairs 256 --seeds 2",
    "h6a_model_sizes": "--grid.horizon 2 --grid.gold_order 1 2 --grid.policy_order 0 1 --grid.verifier_order 1 2 "
    "--grid.pairs 4096 --grid.labels gold coin --seeds 2",
    "h3_optimisation": "--grid.horizon 2 --grid.prompt_length 1 --grid.gold_order 1 --grid.policy_order 2 "
    "--grid.pairs 64 --grid.steps 5 10 --seeds 2",
    "h4_data": "--grid.horizon 2 --grid.gold_order 1 --grid.pairs 64 512 --grid.tilt 1 0 --seeds 2",
    "h2_regularisation": "--grid.horizon 2 --grid.gold_order 1 --grid.pairs 64 --grid.beta 1 4 --seeds 2",
    "rival_misspecification": "--grid.horizon 2 --grid.setting arms arms tree --grid.pairs 64 1024 256 "
    "--grid.gold_order 2 --grid.policy_order 1 2 --grid.verifier_order 1 2 --seeds 2",
    "rival_coverage": "--grid.horizon 2 --grid.pairs 64 --grid.unseen 0 0.3 --seeds 2",
    "rival_overoptimisation": "--grid.horizon 2 --grid.pairs 64 --seeds 2",
    "rival_implicit": "--grid.vocabulary 4 --grid.vertices 3 --grid.pairs 32 --grid.beta 0.25 1 --seeds 2",
    "rival_sparse": "--grid.horizon 2 --grid.terms 1 3 --grid.pairs 32 128 --seeds 2",
    "rival_plateau": "--grid.vocabulary 3 --grid.dimension 2 --grid.samples 64 --grid.pairs 64 512 --seeds 2",
    "h6b_horizon": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
    "h6c_verifier_order": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
    "token_tasks": "--grid.family token_counts --grid.labels gold --grid.vocabulary 4 --grid.horizon 2 "
    "--grid.prompt_length 1 --grid.pairs 10 --grid.steps 25 --seeds 2",
}

_TRANSFORMER_OPTIONS = {  # with --backend transformer
    "sample_complexity": "--grid.horizon 2 --grid.pairs 64 512 --seeds 2",
    "main_table": "--grid.horizon 1 --grid.gold_order 1 --grid.verifier_order 1 --grid.pairs 80 "
    "--grid.candidates 2 --seeds 2",
    "h6b_horizon": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
    "h6c_verifier_order": "--grid.horizon 2 --grid.gold_order 1 2 --grid.pairs 64 256 --seeds 2",
    "h1_information": "--grid.horizon 2 --grid.pairs 64 --seeds 2",
    "h2_regularisation": "--grid.horizon 2 --grid.gold_order 1 --grid.pairs 64 --grid.beta 1 4 --seeds 2",
    "h3_optimisation": "--grid.horizon 2 --grid.prompt_length 1 --grid.gold_order 1 --grid.policy_order 2 "
    "--grid.pairs 64 --grid.steps 5 10 --seeds 2",
    "h4_data": "--grid.horizon 2 --grid.gold_order 1 --grid.pairs 64 512 --grid.tilt 1 0 --seeds 2",
    "h5_generalisation": "--grid.horizon 2 --grid.gold_order 1 2 --grid.width 4 --grid.pairs 256 --seeds 2",
    "h6a_model_sizes": "--grid.horizon 2 --grid.gold_order 1 2 --grid.policy_width 2 4 --grid.verifier_width 4 "
    "--grid.pairs 64 --grid.labels gold coin --seeds 2",
    "rival_implicit": "--grid.vocabulary 4 --grid.vertices 3 --grid.pairs 32 --grid.beta 0.25 1 --seeds 2",
}

TINY = {name: options.split() for name, options in _OPTIONS.items()}
TINY_TRANSFORMER = {name: options.split() for name, options in _TRANSFORMER_OPTIONS.items()}
