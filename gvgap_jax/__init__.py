"""gvgap_jax: an instrument for the generation-verification gap (arXiv 2503.01067).

Reading the files in this order is reading the paper in order: completions, distances, reinforcement
learning, what can be represented, data, losses, optimisation, the methods compared, what is measured.
"""

from gvgap_jax import (
    algorithms,
    complexity,
    divergence,
    features,
    losses,
    metrics,
    online,
    optimize,
    pair_moments,
    policies,
    prediction,
    preferences,
    rollouts,
    soft_rl,
    tasks,
    tree,
    types,
    verifiers,
)
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Fit, HeldOut, Policy, Preferences, TreePolicy, TreeVerifier, Verifier

__all__ = [
    "Fit",
    "HeldOut",
    "Policy",
    "Preferences",
    "TokenTree",
    "TreePolicy",
    "TreeVerifier",
    "Verifier",
    "algorithms",
    "complexity",
    "divergence",
    "features",
    "losses",
    "metrics",
    "online",
    "optimize",
    "pair_moments",
    "policies",
    "prediction",
    "preferences",
    "rollouts",
    "soft_rl",
    "tasks",
    "tree",
    "types",
    "verifiers",
]
