"""The methods: what each must return, on tables and on small classes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from gvgap_jax import HeldOut, TokenTree, algorithms, losses, metrics, policies, preferences, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.tasks import interactions, make_task, random_reference
from tests import helpers
from tests.helpers import as_table, exponential

KEY = jax.random.key(0)
TREE = TokenTree(vocabulary=2, horizon=2, prompt_length=1)
PAIRS = 150
SETTINGS = Settings(penalties=(3.0, 0.3), tolerance=1e-8, rl_tolerance=1e-9, spin_rounds=3)
ADAM = Settings(solver="adam", patience=50)


@pytest.fixture(scope="module")
def task():
    numbers = np.random.default_rng(1)
    return make_task(
        TREE,
        reward=numbers.normal(size=(2, 4)),
        reference=np.log(numbers.dirichlet(np.full(4, 3.0), size=2)),
        prompt_probs=[0.6, 0.4],
        beta=0.7,
        temperature=1.3,
    )


@pytest.fixture(scope="module")
def classes(task):
    """Every policy, rewards without interactions, and their soft-optimal policies."""
    return classes_of(policies.tabular(TREE, TREE.conditionals(task.reference)), task)


def classes_of(policy, task):
    verifier = verifiers.interactions(TREE, 1)
    return Classes(policy, verifier, verifiers.soft_optimal_class(TREE, verifier, task.reference, task.beta))


@pytest.fixture(scope="module")
def small_classes(task):
    """The same rewards, with policies that read the last token alone."""
    return classes_of(policies.markov(TREE, 1, TREE.conditionals(task.reference)), task)


def local_rewards(policy, task):
    reference = policies.tabular(TREE)
    return verifiers.implicit_verifier(policy, reference, reference.from_log_probs(task.reference), task.beta)


@pytest.fixture(scope="module")
def demonstrations(task):
    return task.prompt_probs[:, None] * jnp.exp(random_reference(KEY, TREE, 1.5))


@pytest.fixture(scope="module")
def problems(task, demonstrations):
    """Two draws of the same task, stacked."""

    def problem(key):
        train, held_out = preferences.split(preferences.sample(key, TREE, task, PAIRS), PAIRS)
        return Problem(task.known, train, held_out, demonstrations)

    return jax.jit(jax.vmap(problem))(jax.random.split(KEY, 2))


@pytest.fixture(scope="module")
def problem(problems):
    return jax.tree.map(lambda rows: rows[0], problems)


@pytest.fixture(scope="module")
def population(task):
    """The exact pairs as training and as held-out data: the gold reward is the optimum of both."""
    pairs = preferences.population(TREE, task)
    return Problem(task.known, pairs, HeldOut(pairs))


@functools.cache
def compiled(method, classes, settings):
    return jax.jit(lambda problem: method(KEY, classes, problem, settings))


def run(method, classes, problem, settings=SETTINGS):
    return compiled(method, classes, settings)(problem)


def law(fit, policy):
    return policy.leaf_log_probs(fit.params)


METHODS = {
    "dpo": (algorithms.dpo, SETTINGS),
    "dpo, small": (algorithms.dpo, SETTINGS),
    "dpo, adam": (algorithms.dpo, ADAM),
    "reward_model": (algorithms.reward_model, SETTINGS),
    "rlhf": (algorithms.rlhf, SETTINGS),
    "rlhf, small": (algorithms.rlhf, SETTINGS),
    "restricted_mle": (algorithms.restricted_mle, SETTINGS),
    "sft": (algorithms.sft, SETTINGS),
    "sft, small": (algorithms.sft, SETTINGS),
    "spin": (algorithms.spin, SETTINGS),
    "spin, small": (algorithms.spin, SETTINGS),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_converge_alone_as_they_do_in_a_batch(name, classes, small_classes, problems, problem):
    method, settings = METHODS[name]
    chosen = small_classes if name.endswith("small") else classes
    batch = jax.jit(jax.vmap(lambda problem: method(KEY, chosen, problem, settings)))(problems)
    alone = run(method, chosen, problem, settings)
    assert batch.converged.tolist() == [True, True]
    for in_batch, single in zip(jax.tree.leaves(batch.params), jax.tree.leaves(alone.params), strict=True):
        assert jnp.all(jnp.isfinite(in_batch))
        np.testing.assert_allclose(in_batch[0], single, atol=1e-7)
    assert batch.loss[0] == pytest.approx(float(alone.loss))
    assert alone.penalty in (0, *settings.penalties)


def test_a_method_that_is_not_compiled_finds_the_same(classes, problem):
    plain, fast = algorithms.rlhf(KEY, classes, problem, SETTINGS), run(algorithms.rlhf, classes, problem)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), plain, fast)


@pytest.mark.parametrize("name", METHODS)
def test_methods_stay_in_single_precision(name):
    """Sweeps run in float32: a float64 that is asked for by name is a warning there, and so an error here."""
    method, settings = METHODS[name]

    def whole(key):
        task = interactions(key, TREE, 2, reference_scale=1.0)
        train, held_out = preferences.split(preferences.sample(key, TREE, task, PAIRS), PAIRS)
        base = TREE.conditionals(task.reference)
        policy = policies.markov(TREE, 1, base) if name.endswith("small") else policies.tabular(TREE, base)
        demonstrations = jnp.exp(task.optimal) * task.prompt_probs[:, None]
        fit = method(key, classes_of(policy, task), Problem(task.known, train, held_out, demonstrations), settings)
        return fit, metrics.evaluate(policy.leaf_log_probs(policy.init(key)), task)

    with jax.enable_x64(False):
        shapes = jax.eval_shape(whole, KEY)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
    assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32"), jnp.dtype(bool)}


def test_the_reward_model_is_the_ridge_regression_of_scipy(task, problem):
    verifier = verifiers.interactions(TREE, 1)
    fit = run(algorithms.reward_model, Classes(policies.tabular(TREE), verifier), problem, Settings(penalties=(2.0,)))
    pairs, columns = problem.train, jax.jacobian(verifier.leaf_scores)(verifier.init(KEY))
    sides = [
        np.asarray(columns[TREE.prompt_index(pairs.prompts), TREE.leaf_index(side)])
        for side in (pairs.chosen, pairs.rejected)
    ]
    kept = np.asarray(pairs.weight) > 0
    differences = (sides[0] - sides[1])[kept] / float(task.temperature)

    def objective(vector):
        return np.logaddexp(0, -differences @ vector).sum() + vector @ vector

    expected = scipy.optimize.minimize(objective, np.zeros(differences.shape[1]), options={"gtol": 1e-7})
    np.testing.assert_allclose(fit.params, expected.x, atol=1e-3)
    assert kept.sum() == 120
    assert fit.loss == pytest.approx(np.logaddexp(0, -differences @ expected.x).mean(), rel=1e-4)


@pytest.mark.parametrize(
    "settings", [Settings(penalties=(0.0,), tolerance=1e-9), Settings(solver="adam", tolerance=1e-6)]
)
def test_without_sampling_noise_both_methods_and_both_solvers_find_the_optimum(task, classes, population, settings):
    full = classes._replace(verifier=verifiers.interactions(TREE, 3))
    tolerance = 1e-12 if settings.solver == "newton" else 1e-9
    for method in (algorithms.dpo, algorithms.rlhf):
        fit = run(method, full, population, settings)
        assert fit.converged
        assert metrics.evaluate(law(fit, classes.policy), task).regret < tolerance


def test_rlhf_over_the_local_rewards_of_all_policies_is_dpo(task, classes, problem):
    """Theorems 2.2 and 2.3 of arXiv 2503.01067, on a finite sample."""
    local = classes._replace(verifier=local_rewards(classes.policy, task))
    dpo, rlhf = run(algorithms.dpo, classes, problem), run(algorithms.rlhf, local, problem)
    np.testing.assert_allclose(law(rlhf, classes.policy), law(dpo, classes.policy), atol=1e-9)
    other = run(algorithms.rlhf, classes, problem)
    assert jnp.max(jnp.abs(law(other, classes.policy) - law(dpo, classes.policy))) > 0.05, "R is not R(Pi)"


def test_rlhf_over_the_local_rewards_of_a_small_class_is_dpo_in_that_class(task, small_classes, problem):
    """Here the second stage is a search, not a formula."""
    policy = small_classes.policy
    local = small_classes._replace(verifier=local_rewards(policy, task))
    dpo, rlhf = run(algorithms.dpo, small_classes, problem), run(algorithms.rlhf, local, problem)
    np.testing.assert_allclose(law(rlhf, policy), law(dpo, policy), atol=1e-7)


def test_restricted_likelihood_is_rlhf_over_the_same_verifier(classes, problem):
    """Theorem 3.1 of arXiv 2503.01067."""
    restricted, rlhf = (run(method, classes, problem) for method in (algorithms.restricted_mle, algorithms.rlhf))
    np.testing.assert_allclose(law(restricted, classes.policy), law(rlhf, classes.policy), atol=1e-9)
    assert restricted.loss == pytest.approx(float(rlhf.loss))


def test_the_pair_loss_is_the_one_asked_for():
    """With one pair of responses the margin that minimises E (margin - 1/2)^2 is P(first preferred) - 1/2."""
    tree = TokenTree(2, 1)
    task = make_task(tree, [[1.0, 0.0]], np.log([[0.3, 0.7]]), beta=2.0)
    pairs = preferences.population(tree, task)
    classes = Classes(policies.tabular(tree))
    settings = Settings(penalties=(0.0,), tolerance=1e-10, pair_loss=losses.ipo)
    fit = run(algorithms.dpo, classes, Problem(task.known, pairs, HeldOut(pairs)), settings)
    first, second = (law(fit, classes.policy) - task.reference)[0].tolist()
    assert 2 * (first - second) == pytest.approx(helpers.sigmoid(1) - 0.5)


def second_stage(policy, reward, task):
    return jax.jit(lambda reward: algorithms.second_stage(KEY, policy, reward, task.known, SETTINGS))(reward)


@pytest.mark.parametrize("name", ["tabular", "markov of full order"])
def test_the_second_stage_by_search_is_the_closed_form_where_the_class_holds_the_optimum(task, name):
    base = TREE.conditionals(task.reference)
    policy = policies.tabular(TREE, base) if name == "tabular" else policies.markov(TREE, 2, base)
    searched = second_stage(dataclasses.replace(policy, from_log_probs=None), task.reward, task)
    assert searched.converged
    assert searched.steps > 0
    np.testing.assert_allclose(law(searched, policy), task.optimal, atol=1e-7)
    if name == "tabular":
        formula = second_stage(policy, task.reward, task)
        assert formula.steps == 0
        np.testing.assert_allclose(law(formula, policy), task.optimal, atol=1e-12)
        assert searched.loss == pytest.approx(float(formula.loss))


def test_the_second_stage_in_a_class_without_the_optimum_is_the_best_of_the_class(task):
    """Markov order 0: each of the two tokens has one probability, whatever the prompt and the prefix."""
    policy = policies.markov(TREE, 0)
    rewards, references = as_table(TREE, task.reward), as_table(TREE, task.reference)

    def negative_objective(logits):
        chance = [helpers.sigmoid(logit) for logit in logits]
        policy_law = {
            response: np.prod([p if token == 0 else 1 - p for p, token in zip(chance, response, strict=True)])
            for response in helpers.completions(2, 2)
        }
        return -sum(
            weight * helpers.objective(policy_law, rewards[prompt], exponential(references[prompt]), float(task.beta))
            for weight, prompt in zip(task.prompt_probs.tolist(), rewards, strict=True)
        )

    expected = scipy.optimize.minimize(negative_objective, np.zeros(2), options={"gtol": 1e-8})
    fit = second_stage(policy, task.reward, task)
    assert fit.converged
    assert fit.loss == pytest.approx(expected.fun)
    assert [float(level[0, 0] - level[0, 1]) for level in fit.params] == pytest.approx(expected.x.tolist(), abs=1e-5)


def test_sft_in_the_class_of_all_policies_is_the_law_of_the_demonstrations(classes, problem, demonstrations):
    fit = run(algorithms.sft, classes, problem)
    shares = demonstrations / demonstrations.sum(-1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(law(fit, classes.policy)), shares, atol=1e-8)


def test_sft_in_a_small_class_counts_tokens(task, problem, demonstrations):
    """Markov order 0: the share of each token at each position."""
    policy = policies.markov(TREE, 0)
    fit = run(algorithms.sft, Classes(policy), problem)
    first = demonstrations.reshape(2, 2, 2).sum((0, 2))
    second = demonstrations.reshape(2, 2, 2).sum((0, 1))
    expected = jnp.outer(first, second).reshape(-1)
    np.testing.assert_allclose(jnp.exp(law(fit, policy)), jnp.stack([expected, expected]), atol=1e-8)


def test_spin_stays_where_the_demonstrations_are_and_moves_there_from_elsewhere(classes, problem, demonstrations):
    target = jnp.log(demonstrations / demonstrations.sum(-1, keepdims=True))
    there = Classes(policies.tabular(TREE, TREE.conditionals(target)))
    stayed = run(algorithms.spin, there, problem)
    np.testing.assert_allclose(law(stayed, there.policy), target, atol=1e-7)

    moved = run(algorithms.spin, classes, problem, Settings(rl_tolerance=1e-8, spin_rounds=8))
    start, end = (
        metrics.kl(target, log_policy).sum() for log_policy in (problem.known.reference, law(moved, classes.policy))
    )
    assert end < 1e-4 * start


def test_spin_reports_a_first_round_that_is_stopped_though_the_last_is_not(classes, problem):
    settings = Settings(rl_tolerance=1e-4, rl_steps=3, spin_rounds=5)
    fit = run(algorithms.spin, classes, problem, settings)
    assert fit.gradient_norm <= settings.rl_tolerance
    assert not fit.converged


@pytest.mark.parametrize("settings", [SETTINGS, ADAM], ids=["newton", "adam"])
@pytest.mark.parametrize("part", ["train", "held_out"])
def test_pairs_that_are_not_numbers_are_reported(classes, problem, settings, part):
    held_out = part == "held_out"
    pairs = problem.held_out.pairs if held_out else problem.train
    broken = pairs._replace(reference_margin=pairs.reference_margin.at[4 if held_out else 0].set(jnp.nan))
    fit = run(algorithms.dpo, classes, problem._replace(**{part: HeldOut(broken) if held_out else broken}), settings)
    assert not fit.converged
    assert run(algorithms.dpo, classes, problem, settings).converged


@pytest.mark.parametrize("closed_form", [True, False])
def test_a_reward_that_is_not_a_number_is_reported(task, classes, closed_form):
    policy = classes.policy if closed_form else dataclasses.replace(classes.policy, from_log_probs=None)
    assert not second_stage(policy, task.reward.at[0, 0].set(jnp.nan), task).converged


def test_a_fit_that_runs_out_of_steps_is_reported(classes, problem):
    assert not run(algorithms.dpo, classes, problem, Settings(newton_steps=1)).converged
    assert not run(algorithms.dpo, classes, problem, Settings(solver="adam", adam_steps=5)).converged


def test_rlhf_has_converged_only_if_both_stages_have(classes, small_classes, problem):
    first_stopped = run(algorithms.rlhf, classes, problem, dataclasses.replace(SETTINGS, newton_steps=1))
    second_stopped = run(algorithms.rlhf, small_classes, problem, dataclasses.replace(SETTINGS, rl_steps=1))
    for fit in (first_stopped, second_stopped):
        assert not fit.converged
        assert fit.gradient_norm > 1e-6, "of the stage that was stopped"


def test_the_penalty_path_of_a_network_leaves_its_saddle(task, problem):
    """A network whose weights are all 0 has no gradient; the path must start where there is one."""
    policy = policies.mlp_policy(TREE, 4, TREE.conditionals(task.reference))
    fit = run(algorithms.dpo, Classes(policy), problem, Settings(penalties=(1e4, 2.0)))
    assert fit.converged
    assert fit.loss < 0.65, "log 2 is the loss of the reference"


@pytest.mark.parametrize(
    ("method", "missing", "message"),
    [
        (algorithms.rlhf, {"verifier": None}, "needs a verifier class"),
        (algorithms.reward_model, {"verifier": None}, "needs a verifier class"),
        (algorithms.restricted_mle, {"soft_optimal": None}, r"needs Pi\(R\), see verifiers.soft_optimal_class"),
        (algorithms.sft, {"demonstrations": None}, "needs demonstrations"),
        (algorithms.spin, {"demonstrations": None}, "needs demonstrations"),
    ],
)
def test_a_method_says_what_it_lacks(classes, problem, method, missing, message):
    if "demonstrations" in missing:
        problem = problem._replace(**missing)
    else:
        classes = classes._replace(**missing)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda problem: method(KEY, classes, problem, SETTINGS), problem)
