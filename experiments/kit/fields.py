"""What the fields of a ``Config`` can be: one range for each name, whatever the experiment."""

from experiments.kit.problems import HELD_OUT_EVERY

COIN = "coin"  # labels that a coin decides, where ``gold`` are those of the gold reward
CHOICES = {"labels": ("gold", COIN), "policy": ("tabular", "interactions"), "setting": ("arms", "tree")}
LEAST = {
    "vocabulary": 2,  # with 1 there is a single response
    "pairs": HELD_OUT_EVERY,  # one is held out
    "candidates": 2,
    "vertices": 3,  # of a cycle
    "reference_scale": 0,
    "unseen": 0,
}
LEAST |= dict.fromkeys(("horizon", "prompt_length", "gold_order", "policy_order", "verifier_order"), 1)
LEAST |= dict.fromkeys(("dimension", "features", "layers", "prompts", "samples", "steps", "terms", "width"), 1)
POSITIVE = ("beta", "gamma", "human_beta", "margin", "penalty", "skew", "temperature")
SHARES = ("reference_mass", "similarity")  # between 0 and 1, neither of them


def check(config, **least: int) -> None:
    """Raise ValueError for a field out of its range; ``least`` where an experiment's smallest value is another one."""
    smallest = LEAST | least
    for name, value in vars(config).items():
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name} must be {' or '.join(map(repr, CHOICES[name]))}, got {value!r}.")
        if name in smallest and not value >= smallest[name]:
            raise ValueError(f"{name} must be at least {smallest[name]}, got {value}.")
        if name in POSITIVE and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}.")
        if name in SHARES and not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")


def check_gold_order(config) -> None:
    """Raise ValueError for a gold reward that reads more positions than a response has."""
    if config.gold_order > config.horizon:
        raise ValueError(f"gold_order must be at most the horizon, {config.horizon}, got {config.gold_order}.")
