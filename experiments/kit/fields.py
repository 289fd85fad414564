"""What the fields of a ``Config`` mean and can be: the same for each name, whatever the experiment."""

from experiments.kit.problems import HELD_OUT_EVERY
from gvgap_jax.tasks import LARGEST, SMALLEST

COIN = "coin"  # labels that a coin decides, where ``gold`` are those of the gold reward
CHOICES = {"labels": ("gold", COIN), "policy": ("tabular", "interactions"), "setting": ("arms", "tree")}
LEAST = {
    "vocabulary": 2,  # with 1 there is a single response
    "pairs": HELD_OUT_EVERY,  # one is held out
    "candidates": 2,
    "vertices": 3,  # of a cycle
    "reference_scale": 0,
    "text_scale": 0,
    "unseen": 0,
    "replicate": 0,
}
LEAST |= dict.fromkeys(("horizon", "prompt_length", "gold_order", "policy_order", "verifier_order"), 1)
LEAST |= dict.fromkeys(("dimension", "features", "layers", "prompts", "samples", "steps", "terms", "width"), 1)
POSITIVE = ("beta", "gamma", "human_beta", "margin", "penalty", "skew", "temperature")
# Responses of a more skewed policy have probabilities that are 0 in single precision.
MOST = {"reference_scale": 10, "text_scale": 10}
SHARES = ("reference_mass", "similarity")  # between 0 and 1, neither of them

AXES = {*LEAST, *POSITIVE, *SHARES, "labels", "tilt", "test_share", "setting", "family", "policy_width"}
AXES |= {"verifier_width", "task", "policy", "regulariser", "decay", "replicate"}
AXES |= {"start", "trained"}  # settings of records
WORDS = {"gold"}  # settings where they are words: elsewhere a measured number has the name

MEANINGS = {  # of fields that a ``Config`` does not describe itself
    "vocabulary": "tokens of the vocabulary (V).",
    "horizon": "tokens of a response (H); there are V**H responses.",
    "gold_order": "the gold reward is made of random interactions of up to so many positions.",
    "verifier_order": "reward models are all interactions of up to so many positions.",
    "labels": "``gold``, by the gold reward, or ``coin``, flips that know nothing of it.",
    "samples": "responses that the reward model picks from (n of best-of-n).",
    "human_beta": "temperature of the human, reward per nat; the larger, the nearer to the reference policy.",
    "pairs": "labelled pairs, a fifth of which is held out for selection.",
    "beta": "strength of the KL regularisation, reward per nat.",
    "temperature": "noise of the labels: P(first preferred) = sigmoid(difference of gold rewards / temperature).",
    "reference_scale": "standard deviation of the reference policy's logits; 0 is uniform.",
}


def meaning(config: type, name: str) -> str | None:
    """What a field is, if its ``Config`` does not say so itself."""
    return None if f"      {name}: " in (config.__doc__ or "") else MEANINGS.get(name)


def check(config, **least: int) -> None:
    """Raise ValueError for a field out of its range; ``least`` where an experiment's smallest value is another one."""
    smallest = LEAST | least
    for name, value in vars(config).items():
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name} must be {' or '.join(map(repr, CHOICES[name]))}, got {value!r}.")
        if name in smallest and not value >= smallest[name]:
            raise ValueError(f"{name} must be at least {smallest[name]}, got {value}.")
        if name in MOST and not value <= MOST[name]:
            raise ValueError(f"{name} must be at most {MOST[name]}, got {value}.")
        if name in POSITIVE and not SMALLEST <= value <= LARGEST:
            raise ValueError(f"{name} must be positive, between {SMALLEST:g} and {LARGEST:g}, got {value}.")
        if name in SHARES and not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}.")


def check_gold_order(config) -> None:
    """Raise ValueError for a gold reward that reads more positions than a response has."""
    if config.gold_order > config.horizon:
        raise ValueError(f"gold_order must be at most the horizon, {config.horizon}, got {config.gold_order}.")
