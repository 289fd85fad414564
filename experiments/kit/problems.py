"""What every experiment on token trees shares: the methods compared, and how a row's task and pairs are drawn."""

import jax
import polars as pl
from jaxtyping import Array, Float

from gvgap_jax import TokenTree, algorithms, preferences, tasks
from gvgap_jax.algorithms import Problem
from gvgap_jax.types import Count, Fit, PRNGKey

METHODS: dict[str, algorithms.Method] = {
    "DPO": algorithms.dpo,
    "RLHF": algorithms.rlhf,
    "restricted MLE": algorithms.restricted_mle,
}
HELD_OUT_EVERY = 5
TRAINED = 1 - 1 / HELD_OUT_EVERY  # share of the pairs that is fitted
OF = ": "  # between an arm and what was measured of it, in the names of columns where one row holds all arms


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
    return Problem(task.known, *preferences.split(drawn, cell["pairs"], HELD_OUT_EVERY))


def record_of(fit: Fit) -> dict:
    """Columns of a fit: how good it is and how far to trust it, without its parameters."""
    return {name: value for name, value in fit._asdict().items() if name != "params"}


def of_arm(records: pl.DataFrame, arm: str) -> pl.DataFrame:
    """What was measured of one arm, in columns that do not name it, where one row holds all arms."""
    shared = [name for name in records.columns if OF not in name]
    measured = pl.col(f"^{arm}{OF}.*$").name.map(lambda name: name.split(OF)[1])
    return records.select(pl.lit(arm).alias("arm"), *shared, measured)
