"""Token tasks too large to enumerate, whose best and random J are exact all the same.

In order: what a task is, the families (rewards of controllable complexity, then puzzles, which are easy to check and
hard to solve), reward models to learn them with, and the bridges to token trees and to sampled methods.
"""

from gvgap_jax.token_tasks.bridges import environment, on_tree
from gvgap_jax.token_tasks.families import automaton, hidden_reference, interactions, token_counts
from gvgap_jax.token_tasks.puzzles import colouring, sorting, subset_sum
from gvgap_jax.token_tasks.reward_models import count_verifier, window_verifier
from gvgap_jax.token_tasks.token_task import Checker, Objectives, TokenTask, objectives

__all__ = [
    "Checker",
    "Objectives",
    "TokenTask",
    "automaton",
    "colouring",
    "count_verifier",
    "environment",
    "hidden_reference",
    "interactions",
    "objectives",
    "on_tree",
    "sorting",
    "subset_sum",
    "token_counts",
    "window_verifier",
]
