"""Settings that drive every fit to its optimum; a fit that did not get there becomes NaN."""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Float

from gvgap_jax import TokenTree, algorithms
from gvgap_jax.tasks import Task
from gvgap_jax.types import Fit, HeldOut, TreePolicy
from theory.instances import Coverage, pairs

PENALISED = algorithms.Settings(
    penalties=(1.0,), tolerance=1e-12, newton_steps=1000, rl_tolerance=1e-12, rl_steps=300, spin_rounds=30
)
UNPENALISED = replace(PENALISED, penalties=(0.0,))


def problem(tree: TokenTree, task: Task, coverage: Coverage) -> algorithms.Problem:
    """One instance as the methods take it; nothing is held out, because there is one penalty and no selection."""
    data = pairs(tree, task, coverage)
    return algorithms.Problem(task.known, data, HeldOut(data))


def converged_leaves(policy: TreePolicy, fit: Fit) -> Float[Array, "X L"]:
    """Leaf log-probabilities of a fitted policy, NaN unless the fit converged: a row with NaN never passes."""
    return jnp.where(fit.converged, policy.leaf_log_probs(fit.params), jnp.nan)
