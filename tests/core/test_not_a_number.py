"""Not-a-number goes through every measure as itself: a policy of NaNs must never look like the best there is."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import divergence, metrics

MEASURES = {
    divergence.kl: ("policy", "reference"),
    divergence.total_variation: ("policy", "reference"),
    divergence.entropy: ("policy",),
    metrics.evaluate: ("policy", "task"),
    metrics.pair_accuracy: ("margin", "weight"),
    metrics.pair_likelihood: ("margin", "weight"),
    metrics.best_of_n: ("policy", "score", "n"),
    metrics.top_and_bottom: ("policy", "score", "n"),
    metrics.win_rate: ("policy", "reference", "score", "prompt_probs"),
}
POISONED = [
    pytest.param(measure, position, leaf, id=f"{measure.__name__}-{name}-{leaf}")
    for measure, names in MEASURES.items()
    for position, name in enumerate(names)
    for leaf in ("first", "absent", "all")
    if name not in ("n", "task", "prompt_probs") and (name in ("policy", "reference") or leaf == "first")
]


def arguments(measure, task):
    """What each measure is of; the last response of the policy is never drawn."""
    policy = jnp.log(jnp.exp(task.reference).at[:, -1].set(0.0) / (1 - jnp.exp(task.reference[:, -1:])))
    there = {"policy": policy, "reference": task.reference, "score": task.reward, "n": 3, "task": task}
    there |= {"prompt_probs": task.prompt_probs, "margin": task.reward[0], "weight": jnp.ones(task.reward.shape[1])}
    return [there[name] for name in MEASURES[measure]]


def test_every_measure_is_asked():
    public = {
        value
        for module in (divergence, metrics)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == set(MEASURES)


@pytest.mark.parametrize(("measure", "position", "leaf"), POISONED)
def test_not_a_number_comes_out_as_itself(task, measure, position, leaf):
    """In the prompt that it stands in, and in every mean over prompts; other prompts keep their numbers."""
    given = arguments(measure, task)
    whole = jnp.asarray(measure(*given))
    assert np.isfinite(whole).all()
    where = {"first": 0, "absent": -1, "all": slice(None)}[leaf]
    poison = given[position].at[(0, where) if given[position].ndim == 2 else where].set(jnp.nan)
    found = jnp.asarray(measure(*given[:position], poison, *given[position + 1 :]))
    if measure is metrics.evaluate or whole.ndim == 0:
        assert np.isnan(found).all()
    else:
        assert np.isnan(found[0]).all()
        np.testing.assert_array_equal(found[1:], whole[1:])
