"""What every experiment on token trees shares: how a row's task and pairs are drawn, and checks of its settings."""

import jax
from jaxtyping import Array, Float

from gvgap_jax import TokenTree, preferences, tasks
from gvgap_jax.algorithms import Problem
from gvgap_jax.types import Count, Fit, PRNGKey

HELD_OUT_EVERY = 5
TRAINED = 1 - 1 / HELD_OUT_EVERY  # share of the pairs that is fitted


def task_of(
    cell: dict, tree: TokenTree, family: str = "interactions", complexity: Count | None = None
) -> tuple[tasks.Task, PRNGKey, PRNGKey]:
    """The task of a row, and keys for its pairs and its fit; the seed, the gold reward and the horizon decide them.

    ``complexity`` is that of the gold reward where the row's ``gold_order``, an array, cannot serve.
    """
    key = jax.random.fold_in(jax.random.key(cell["seed"]), cell["gold_order"])
    task_key, pairs_key, fit_key = jax.random.split(jax.random.fold_in(key, tree.horizon), 3)
    gold = cell["gold_order"] if complexity is None else complexity
    task = tasks.task_family(family)(task_key, tree, gold, cell["reference_scale"])
    return task._replace(beta=cell["beta"], temperature=cell["temperature"]), pairs_key, fit_key


def problem_of(
    cell: dict,
    tree: TokenTree,
    task: tasks.Task,
    key: PRNGKey,
    padded: int,
    coverage: Float[Array, "X L"] | None = None,
) -> Problem:
    """The row's ``pairs`` of its task, every fifth held out, in arrays of ``padded`` pairs.

    Responses come from ``coverage`` (log-probabilities, the reference if left out).
    """
    drawn = preferences.sample(key, tree, task, padded, coverage)
    return Problem(task, *preferences.split(drawn, cell["pairs"], HELD_OUT_EVERY))


def record_of(fit: Fit) -> dict:
    """Columns of a fit: how good it is and how far to trust it, without its parameters."""
    return {name: value for name, value in fit._asdict().items() if name != "params"}


def check(config, positive: tuple[str, ...] = (), at_least_one: tuple[str, ...] = ()) -> None:
    """Raise ValueError for a setting out of its range; pairs must be enough to hold one out."""
    for name in positive:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}.")
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if "pairs" not in at_least_one and config.pairs < HELD_OUT_EVERY:
        raise ValueError(f"pairs must be at least {HELD_OUT_EVERY} (one is held out), got {config.pairs}.")
