"""The law of few pairs: its moments by loops over pairs, its limits, and fits that it has never seen."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from gvgap_jax import (
    TokenTree,
    algorithms,
    complexity,
    metrics,
    pair_moments,
    policies,
    prediction,
    preferences,
    tasks,
    verifiers,
)
from tests import helpers
from tests.helpers import as_table, exponential

MANY = 1e8  # pairs, at which nothing but the first order is left
SIZE = 3


@pytest.fixture(scope="module")
def features(tree):
    return jnp.asarray(np.random.default_rng(5).normal(size=(tree.prompts, tree.leaves, SIZE)))


@pytest.fixture(scope="module")
def ridge():
    root = np.random.default_rng(6).normal(size=(SIZE, SIZE))
    return jnp.asarray(root @ root.T + np.eye(SIZE))


@pytest.fixture(scope="module")
def pairs_of(tree, task):
    """{(prompt, chosen, rejected): probability} in numbers of prompts and leaves, by loops."""
    reference = {prompt: exponential(row) for prompt, row in as_table(tree, task.reference).items()}
    law = helpers.preference_law(
        task.prompt_probs.tolist(), as_table(tree, task.reward), reference, float(task.temperature)
    )
    prompts = {prompt: index for index, prompt in enumerate(reference)}
    leaves = {leaf: index for index, leaf in enumerate(next(iter(reference.values())))}
    return {(prompts[x], leaves[y], leaves[z]): probability for (x, y, z), probability in law.items()}


def moments(fitted, task, pairs, ridge, steps=40):
    """The fixed point, from far away."""
    law = pair_moments.pair_law(task)

    def step(at, _):
        return prediction.fixed_point_step(fitted, task, law, pairs, ridge, at)[0], None

    size = fitted.dimension
    start = prediction.Moments(jnp.zeros(size), jnp.linalg.inv(ridge), jnp.zeros((size, size)))
    return jax.jit(lambda: jax.lax.scan(step, start, length=steps)[0])()


def by_loops(pairs_of, features, temperature, mean, inside):
    """Gradient, curvature and covariance of scores, pair by pair; ``inside`` says how wrong a pair is, and its bend."""
    gradient, hessian, square = np.zeros(SIZE), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for (x, y, z), probability in pairs_of.items():
        g = (features[x, y] - features[x, z]) / temperature
        for weight, wrong, bend in inside(g, g @ mean):
            gradient -= probability * weight * wrong * g
            square += probability * weight * wrong**2 * np.outer(g, g)
            hessian += probability * weight * bend * np.outer(g, g)
    return gradient, hessian, square - np.outer(gradient, gradient)


def test_law_of_pairs_is_the_loop_over_draws_and_labels(task, pairs_of):
    found = np.asarray(pair_moments.pair_law(task))
    assert found.sum() == pytest.approx(1)
    for (x, y, z), probability in pairs_of.items():
        assert found[x, y, z] == pytest.approx(probability)


def test_with_many_pairs_the_moments_are_those_of_the_population(task, features, ridge, pairs_of):
    """The mean fit minimises the expected loss and its ridge; response and noise are the sandwich's bread and meat."""
    found = moments(prediction.of_features(features), task, MANY, 0.02 * MANY * ridge)
    mean = np.asarray(found.mean)

    def inside(g, margin):
        wrong = helpers.sigmoid(-margin)
        return [(1.0, wrong, wrong * (1 - wrong))]

    gradient, hessian, noise = by_loops(pairs_of, np.asarray(features), float(task.temperature), mean, inside)
    np.testing.assert_allclose(gradient, -0.02 * ridge @ mean, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.inv(found.response) / MANY, hessian + 0.02 * ridge, rtol=1e-6)
    np.testing.assert_allclose(found.noise, noise, rtol=1e-6)
    assert np.linalg.norm(noise - hessian) > 0.03 * np.linalg.norm(hessian)  # the class is too small for the reward


def test_with_few_pairs_every_pair_is_inside_of_its_own_fit(task, features, ridge, pairs_of):
    """The fixed point, by loops: margins inside solve their equation, and scatter by the covariance of the fit."""
    pairs = 12.0
    found = moments(prediction.of_features(features), task, pairs, ridge)
    mean, response = np.asarray(found.mean), np.asarray(found.response)
    covariance = pairs * response @ np.asarray(found.noise) @ response

    def inside(g, margin):
        leverage, scatter = g @ response @ g, math.sqrt(g @ covariance @ g)
        rows = []
        for outside in (margin - scatter, margin + scatter):
            wrong = brentq(lambda w, m=outside: w - helpers.sigmoid(-(m + leverage * w)), 0, 1, xtol=1e-14)
            bend = wrong * (1 - wrong)
            rows.append((0.5, wrong, bend / (1 + leverage * bend)))
        return rows

    gradient, hessian, noise = by_loops(pairs_of, np.asarray(features), float(task.temperature), mean, inside)
    np.testing.assert_allclose(pairs * gradient, -ridge @ mean, atol=2e-4)
    np.testing.assert_allclose(np.linalg.inv(response), pairs * hessian + ridge, rtol=1e-3)
    np.testing.assert_allclose(found.noise, noise, rtol=1e-3, atol=1e-4)


def test_moments_do_not_depend_on_the_parametrisation(task, features, ridge):
    mixing = jnp.asarray(np.random.default_rng(7).normal(size=(SIZE, SIZE)))
    plain = moments(prediction.of_features(features), task, 12.0, ridge)
    mixed = moments(prediction.of_features(features @ mixing), task, 12.0, mixing.T @ ridge @ mixing)
    np.testing.assert_allclose(mixing @ mixed.mean, plain.mean, rtol=1e-8)
    np.testing.assert_allclose(mixing @ mixed.response @ mixing.T, plain.response, rtol=1e-8)
    np.testing.assert_allclose(mixed.noise, mixing.T @ plain.noise @ mixing, rtol=1e-8)


def expected(fitted, task, pairs, ridge, **more):
    found = jax.jit(
        lambda: prediction.predict(fitted, task, jnp.array([pairs]), jnp.array([pairs / 4]), ridge[None], **more)
    )()
    return jax.tree.map(lambda values: values[0], found)


def plain_regret(tree, task, features, parameters):
    """KL(pi || pi*) of a linear reward, in plain Python."""
    total, reward = 0.0, as_table(tree, features @ parameters)
    for chance, prompt in zip(task.prompt_probs.tolist(), reward, strict=True):
        reference = exponential(as_table(tree, task.reference)[prompt])
        best = helpers.soft_optimal(reference, as_table(tree, task.reward)[prompt], float(task.beta))
        total += chance * helpers.kl(helpers.soft_optimal(reference, reward[prompt], float(task.beta)), best)
    return total


def test_regret_of_many_pairs_is_that_of_the_mean_and_half_the_trace(tree, task, features, ridge):
    """R(w) + tr(R'' C)/2 with the second differences of a plain loop over responses."""
    held = 0.02 * MANY * ridge
    fitted = prediction.of_features(features)
    at = moments(fitted, task, MANY, held)
    step, mean = 1e-3, np.asarray(at.mean)
    bend = np.zeros((SIZE, SIZE))
    for i, j in itertools.product(range(SIZE), repeat=2):
        for one, other in itertools.product((-1, 1), repeat=2):
            moved = mean + step / 2 * (one * np.eye(SIZE)[i] + other * np.eye(SIZE)[j])
            bend[i, j] += one * other * plain_regret(tree, task, features, moved) / step**2
    found = expected(fitted, task, MANY, held)
    assert found.bias == pytest.approx(plain_regret(tree, task, features, mean), rel=1e-6)
    covariance = MANY * at.response @ at.noise @ at.response
    assert found.variance == pytest.approx(np.trace(bend @ covariance) / 2, rel=1e-3)
    assert found.regret == pytest.approx(found.bias + found.variance)
    assert found.trusted


def test_the_limit_is_the_effective_dimension(tree, task, features):
    """Where the class holds the gold reward, and a fixed ridge is forgotten."""
    held = task._replace(reward=jnp.einsum("xld,d->xl", features, jnp.array([0.5, -1.0, 0.7])))
    limit = float(complexity.effective_dimension(features, held)) / (2 * MANY)
    found = expected(prediction.of_features(features), held, MANY, jnp.eye(SIZE))
    assert found.regret == pytest.approx(limit, rel=1e-3)
    assert found.bias < 1e-3 * limit
    assert found.penalty.shape == (SIZE, SIZE)
    elsewhere = jax.nn.log_softmax(jnp.asarray(np.random.default_rng(8).normal(size=features.shape[:2])))
    other = float(complexity.effective_dimension(features, held, elsewhere)) / (2 * MANY)
    assert abs(other / limit - 1) > 0.1
    covered = expected(prediction.of_features(features), held, MANY, jnp.eye(SIZE), coverage=elsewhere)
    assert covered.regret == pytest.approx(other, rel=1e-3)
    few = expected(prediction.of_features(features), held, 10.0, jnp.eye(SIZE))
    assert few.regret < 0.8 * limit * MANY / 10  # which the ridge and what a pair can do hold down


def test_a_table_of_policies_is_a_table_of_rewards(tree, task):
    """Without a ridge to speak of, the local rewards of all policies and all interactions are one class."""
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    local = prediction.of_policy(policy, policy.init(jax.random.key(0)), task.known)
    full = verifiers.interactions(tree, tree.prompt_length + tree.horizon)
    table = prediction.of_verifier(full, full.init(jax.random.key(0)))
    weak = jnp.array(1.0)
    limit = float(complexity.table_dimension(task)) / (2 * MANY)
    for fitted in (local, table):
        assert expected(fitted, task, MANY, weak).regret == pytest.approx(limit, rel=2e-3)


def test_penalties_are_those_of_the_settings_for_policies_too(tree, task):
    """A logit is worth beta: the mean fit minimises what ``algorithms.dpo`` minimises on the whole population."""
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    population = preferences.population(tree, task)
    population = population._replace(weight=MANY * population.weight)
    problem = algorithms.Problem(task.known, population, preferences.HeldOut(population))
    settings = algorithms.Settings(penalties=(0.05 * MANY,), tolerance=1e-7)
    start = policy.init(jax.random.key(0))
    fit = jax.jit(lambda: algorithms.dpo(jax.random.key(0), algorithms.Classes(policy), problem, settings))()
    fitted = prediction.of_policy(policy, start, task.known)
    at = moments(fitted, task, MANY, 0.05 * MANY * jnp.eye(fitted.dimension))
    local = task.beta * (policy.leaf_log_probs(fit.params) - task.reference)
    np.testing.assert_allclose(fitted.leaf_scores(at.mean), local, atol=1e-5)
    fewer = prediction.of_all_policies(tree, task.known)
    same = moments(fewer, task, MANY, 0.05 * MANY * jnp.eye(fewer.dimension))
    np.testing.assert_allclose(fewer.leaf_scores(same.mean), local, atol=1e-5)
    felt = [each.gradients(where.mean) @ where.response for each, where in ((fitted, at), (fewer, same))]
    noise = [each @ where.noise @ jnp.swapaxes(each, 1, 2) for each, where in zip(felt, (at, same), strict=True)]
    np.testing.assert_allclose(*noise, rtol=1e-4, atol=1e-20)
    assert fewer.dimension < fitted.dimension


@pytest.mark.parametrize("held_out", ["many", "hardly any"])
def test_selection_takes_the_lowest_expected_loss_as_far_as_held_out_pairs_can_tell(task, features, held_out):
    fitted = prediction.of_features(features)
    pairs, number = jnp.array([40.0]), jnp.array([1e9 if held_out == "many" else 1e-9])
    found = jax.jit(lambda: prediction.predict(fitted, task, pairs, number))()
    assert jnp.sum(found.shares) == pytest.approx(1)
    if held_out == "many":
        best = min(
            float(prediction.predict(fitted, task, pairs, number, (penalty,)).regret[0])
            for penalty in algorithms.PENALTIES
        )
        assert found.regret[0] < 1.1 * best
    else:
        assert jnp.max(found.shares) < 0.6
        assert found.shares[0, 0] > 0.1  # the strongest: it is one of the two ends
        assert found.shares[0, -1] > 0.1


def test_a_second_stage_that_is_held_to_a_class_ends_at_its_projection(tree, task, features):
    """With many pairs: at the optimum of the exact second stage."""
    followed = features[..., :1]
    teacher = verifiers.linear(tree, followed)
    policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    ridge = 0.02 * MANY * jnp.eye(SIZE)
    fitted = prediction.of_features(features)
    reward = features @ moments(fitted, task, MANY, ridge).mean
    settings = algorithms.Settings(rl_tolerance=1e-8)
    fit = algorithms.second_stage(jax.random.key(0), policy, reward, task.known, settings)
    regret = metrics.evaluate(policy.leaf_log_probs(fit.params), task).regret
    assert expected(fitted, task, MANY, ridge, second_stage=followed).regret == pytest.approx(float(regret), rel=1e-4)
    assert expected(fitted, task, MANY, ridge).regret != pytest.approx(float(regret), rel=2e-3)


SMALL = TokenTree(2, 3)
FITS = 256


@pytest.mark.parametrize("method", ["DPO", "RLHF"])
@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_fits_to_sampled_pairs_have_the_regret_that_was_predicted(method, scale):
    """Selection and all, on 40 pairs for 7 directions: closer than leading orders are."""
    task = tasks.interactions(jax.random.key(3), SMALL, 1, scale)
    policy, verifier = policies.tabular(SMALL, SMALL.conditionals(task.reference)), verifiers.interactions(SMALL, 1)
    classes, pairs = algorithms.Classes(policy, verifier), 40

    def measured(key):
        problem = algorithms.Problem(task.known, *preferences.split(preferences.sample(key, SMALL, task, pairs), pairs))
        fit = {"DPO": algorithms.dpo, "RLHF": algorithms.rlhf}[method](key, classes, problem, algorithms.Settings())
        return metrics.evaluate(policy.leaf_log_probs(fit.params), task).regret

    regrets = np.asarray(jax.jit(jax.vmap(measured))(jax.random.split(jax.random.key(0), FITS)))
    start = policy.init(jax.random.key(0)), verifier.init(jax.random.key(0))
    fitted = (
        prediction.of_policy(policy, start[0], task.known)
        if method == "DPO"
        else prediction.of_verifier(verifier, start[1])
    )
    found = jax.jit(lambda: prediction.predict(fitted, task, jnp.array([32.0]), jnp.array([8.0])))()
    error = regrets.std() / math.sqrt(FITS)
    assert abs(regrets.mean() - found.regret[0]) < 3 * error + 0.05 * found.regret[0]
    logs = np.log(regrets)
    assert abs(logs.mean() - math.log(found.typical[0])) < 3 * logs.std() / math.sqrt(FITS) + 0.1


def test_tasks_batch(task, features):
    """As every pure function of arrays, over tasks and over numbers of pairs."""
    fitted, pairs = prediction.of_features(features), jnp.array([20.0, 100.0])
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.3 * leaf]), task.reward)
    batched = jax.vmap(lambda reward: prediction.predict(fitted, task._replace(reward=reward), pairs, pairs))(both)
    for index in range(2):
        alone = prediction.predict(fitted, task._replace(reward=both[index]), pairs, pairs)
        np.testing.assert_allclose(batched.regret[index], alone.regret, rtol=1e-6)
    assert batched.shares.shape == (2, 2, len(algorithms.PENALTIES))


def test_what_is_no_number_is_not_trusted(task, features):
    broken = task._replace(reward=task.reward.at[0, 0].set(jnp.nan))
    found = prediction.predict(prediction.of_features(features), broken, jnp.array([20.0]), jnp.array([5.0]))
    assert not found.trusted[0]


def test_candidates_whose_fixed_point_is_not_found_are_never_selected():
    """A hardly penalised fit where some responses are hardly ever compared; without a neighbour nothing is trusted."""
    tree = TokenTree(3, 3)
    skewed = tasks.interactions(jax.random.key(4), tree, 2, 3.0)
    full = verifiers.interactions(tree, 3)
    fitted = prediction.of_verifier(full, full.init(jax.random.key(0)))

    def found(ridges):
        return prediction.predict(fitted, skewed, jnp.array([4000.0]), jnp.array([1000.0]), ridges)

    lost, whole = found((100.0, 30.0, 10.0, 1.0, 0.01)), found((100.0, 30.0, 10.0, 1.0))
    assert lost.shares[0, -1] == 0
    assert lost.trusted[0]
    np.testing.assert_allclose(lost.typical, whole.typical, rtol=0.2)
    again = found((100.0, 0.01, 0.001, 30.0, 10.0, 1.0))  # a stronger one is tried after a weak one
    assert jnp.sum(again.shares[0, 1:3]) == 0
    assert jnp.sum(again.shares[0, 3:]) > 0.5
    beside = found((1.0, 0.01))
    assert beside.shares[0, -1] == 0
    assert not beside.trusted[0]
