"""What the law of few pairs says of a row: the regret of DPO or two-stage RLHF on its number of pairs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.kit.problems import TRAINED
from gvgap_jax import TokenTree, policies, prediction
from gvgap_jax.features import interaction_basis
from gvgap_jax.prediction import Linearised
from gvgap_jax.tasks import Task
from gvgap_jax.types import Number


def all_policies(tree: TokenTree, task: Task) -> Linearised:
    """What DPO over all policies fits."""
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    return prediction.of_policy(policy, policy.init(jax.random.key(0)), task.known)


def features(tree: TokenTree, order: int) -> Float[Array, "X L d"]:
    """All interactions of up to so many positions."""
    return jnp.asarray(interaction_basis(tree, tree.prompt_length + order)[0], float)


def interactions(tree: TokenTree, order: int) -> Linearised:
    """Reward models of all interactions of up to so many positions, and the policies that are optimal for them."""
    return prediction.of_features(features(tree, order))


def predicted(
    fitted: Linearised, task: Task, pairs: Number, second_stage: Float[Array, "X L p"] | None = None
) -> dict[str, Array]:
    """Columns: the mean and the geometric mean of the regret over data sets [nats], and whether to trust them.

    Of labelled ``pairs`` a fifth is held out. ``second_stage`` has the features of the policies that stage two is held
    to, which are all policies if it is left out.
    """
    number = jnp.atleast_1d(pairs)
    found = prediction.predict(fitted, task, TRAINED * number, (1 - TRAINED) * number, second_stage=second_stage)
    return {"expected": found.regret[0], "typical": found.typical[0], "trusted": found.trusted[0]}
