"""A method is given no gold reward, and selects on held-out pairs alone: the types leave no room for anything else."""

import typing

import jax
import jax.numpy as jnp
import pytest

from experiments.questions.main_table_arms import Scene
from gvgap_jax import HeldOut, Preferences, algorithms, policies, preferences, tasks, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.training import objectives

METHODS = ("dpo", "reward_model", "rlhf", "restricted_mle", "sft", "spin", "second_stage")
LEARNERS = {
    **{name: getattr(algorithms, name) for name in METHODS},
    "environment": tasks.environment,
    "objectives.dpo": objectives.dpo,
    "objectives.reward_model": objectives.reward_model,
    "arms of the main table": Scene,
}


def reachable(kind, seen=()):
    """Every class that a value of this type can hold, through NamedTuples, unions and dataclasses."""
    kinds = {kind}
    hints = typing.get_type_hints(kind) if hasattr(kind, "__annotations__") else {}
    inside = [*hints.values(), *typing.get_args(kind)]
    for part in inside:
        if isinstance(part, type) or typing.get_args(part):
            kinds |= {part} if part in seen else reachable(part, (*seen, part))
    return kinds


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=list(LEARNERS))
def test_no_gold_reward_reaches_a_learner(learner):
    given = {name: kind for name, kind in typing.get_type_hints(learner).items() if name != "return"}
    held = set().union(*(reachable(kind) for kind in given.values()))
    assert tasks.Task not in held
    if "problem" in given or learner is Scene:
        assert Problem in held
        assert tasks.Known in held


def test_what_is_known_is_the_task_without_its_reward(task):
    assert tasks.Task._fields == ("reward", *tasks.Known._fields)
    for name in tasks.Known._fields:
        assert getattr(task.known, name) is getattr(task, name)


def test_selection_is_given_held_out_pairs_alone():
    assert typing.get_type_hints(Problem)["held_out"] is HeldOut
    assert typing.get_type_hints(Problem)["train"] is Preferences
    for objective in (objectives.dpo, objectives.reward_model):
        assert typing.get_type_hints(objective)["held_out"] == HeldOut | None


@pytest.mark.parametrize("settings", [Settings(), Settings(solver="adam")], ids=lambda settings: settings.solver)
@pytest.mark.parametrize("method", ["dpo", "rlhf"])
def test_training_pairs_are_refused_where_held_out_ones_belong(tree, task, method, settings):
    train, held_out = preferences.split(preferences.sample(jax.random.key(0), tree, task, 10), 10)
    classes = Classes(policies.tabular(tree), verifiers.interactions(tree, 1))
    fit = getattr(algorithms, method)

    def fitted(*pairs):
        return jax.eval_shape(lambda: fit(jax.random.key(0), classes, Problem(task.known, *pairs), settings))

    assert fitted(train, held_out).loss.dtype == jnp.result_type(float)
    with pytest.raises(AttributeError, match="pairs"):
        fitted(train, train)
