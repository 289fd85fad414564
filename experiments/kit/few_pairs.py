"""What the law of few pairs says of a row: the regret of DPO or two-stage RLHF on its number of pairs."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.kit.problems import TRAINED
from gvgap_jax import TokenTree, prediction
from gvgap_jax.features import interaction_basis
from gvgap_jax.prediction import Linearised
from gvgap_jax.tasks import Task
from gvgap_jax.types import Number


def features(tree: TokenTree, order: int) -> Float[Array, "X L d"]:
    """All interactions of up to so many positions."""
    return jnp.asarray(interaction_basis(tree, tree.prompt_length + order)[0], float)


def fitted(tree: TokenTree, task: Task, order: int) -> Linearised:
    """What is fitted: by DPO all policies, for order 0; or reward models of so many positions, or their policies."""
    return prediction.of_features(features(tree, order)) if order else prediction.of_all_policies(tree, task.known)


def predicted(
    of_class: Linearised, task: Task, pairs: Number, second_stage: Float[Array, "X L p"] | None = None
) -> dict[str, Array]:
    """Columns: the mean and the geometric mean of the regret over data sets [nats], and whether to trust them.

    Of labelled ``pairs`` a fifth is held out. ``second_stage`` has the features of the policies that stage two is held
    to, which are all policies if it is left out.
    """
    number = jnp.atleast_1d(pairs)
    found = prediction.predict(of_class, task, TRAINED * number, (1 - TRAINED) * number, second_stage=second_stage)
    return {"expected": found.regret[0], "typical": found.typical[0], "trusted": found.trusted[0]}
