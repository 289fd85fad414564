"""The training loop and Newton's method against independent solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gvgap_jax import optimize

NUMBERS = np.random.default_rng(0)
DESIGN, TARGET = NUMBERS.normal(size=(40, 5)), NUMBERS.normal(size=40)
HELD_OUT = NUMBERS.normal(size=(30, 5)) + 0.3


def outputs(params):
    return jnp.asarray(DESIGN) @ jnp.concatenate([params["first"], params["rest"]])


def start():
    return {"first": jnp.zeros(2), "rest": jnp.zeros(3)}


def flat(params):
    return np.concatenate([params["first"], params["rest"]])


def logistic(margins):
    return jnp.sum(jax.nn.softplus(-margins))


def mean_logistic(margins):
    return jnp.mean(jax.nn.softplus(-margins))


def held_out_logistic(params):
    return mean_logistic(jnp.asarray(HELD_OUT) @ jnp.concatenate([params["first"], params["rest"]]))


def scipy_logistic(penalty):
    def objective(vector):
        return np.logaddexp(0, -DESIGN @ vector).sum() + penalty / 2 * vector @ vector

    return scipy.optimize.minimize(objective, np.zeros(5), options={"gtol": 1e-7}).x


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_newton_matches_scipy_on_logistic_regression(penalty):
    fit = optimize.newton(outputs, logistic, start(), 1e-9, 50, penalty)
    expected = scipy_logistic(penalty)
    assert fit.converged
    assert fit.steps < 20
    np.testing.assert_allclose(flat(fit.params), expected, atol=1e-5)
    gradient = -DESIGN.T @ (1 / (1 + np.exp(DESIGN @ flat(fit.params)))) + penalty * flat(fit.params)
    assert np.linalg.norm(gradient) <= 1e-9
    assert fit.loss == pytest.approx(np.logaddexp(0, -DESIGN @ expected).sum()), "the loss is without the penalty"
    assert fit.penalty == penalty


@pytest.mark.parametrize("penalty", [3.0, 1000.0])
def test_newton_matches_the_closed_form_of_ridge_regression(penalty):
    def loss(values):
        return 0.5 * jnp.sum((values - TARGET) ** 2)

    fit = optimize.newton(outputs, loss, start(), 1e-9, 50, penalty)
    expected = np.linalg.solve(DESIGN.T @ DESIGN + penalty * np.eye(5), DESIGN.T @ TARGET)
    assert fit.converged
    assert fit.steps <= 12, "without the penalty in the curvature it takes 45"
    np.testing.assert_allclose(flat(fit.params), expected, atol=1e-9)


def test_newton_finds_a_stationary_point_of_a_class_that_is_not_linear():
    def curved(params):
        return jnp.tanh(outputs(params)) + outputs(params) ** 2

    fit = optimize.newton(curved, logistic, start(), 1e-8, 200, 0.5)
    gradient = jax.grad(lambda vector: logistic(curved(vector)) + 0.25 * jnp.sum(flat_jax(vector) ** 2))(fit.params)
    assert fit.converged
    assert np.linalg.norm(flat(gradient)) <= 1e-8
    assert fit.loss < logistic(curved(start()))


def flat_jax(params):
    return jnp.concatenate([params["first"], params["rest"]])


def test_newton_with_fisher_curvature_projects_onto_a_class():
    """Forward KL to a target law in the class of all laws is minimised by the target."""
    target = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(6)))
    fit = optimize.newton(
        jax.nn.log_softmax, lambda log_law: -jnp.sum(target * log_law), jnp.zeros(6), 1e-10, 50, curvature=jnp.exp
    )
    assert fit.converged
    np.testing.assert_allclose(jax.nn.softmax(fit.params), target, atol=1e-9)


def test_newton_that_is_stopped_early_says_so():
    fit = optimize.newton(outputs, logistic, start(), 1e-9, 1)
    assert not fit.converged
    assert fit.steps == 1
    assert fit.gradient_norm > 1e-9


def test_newton_that_meets_nan_says_so():
    fit = optimize.newton(outputs, lambda values: jnp.nan * jnp.sum(values), start(), 1e-9, 50)
    assert not fit.converged


PENALTIES = (0.01, 100.0, 1.0, 10.0)


def path(max_steps=50, total_weight=40.0, held_out_loss=held_out_logistic, loss=mean_logistic):
    return optimize.penalty_path(
        outputs, loss, held_out_loss, start(), jnp.asarray(total_weight), PENALTIES, 1e-8, max_steps
    )


def test_penalty_path_selects_the_lowest_held_out_loss():
    fit = path()
    solutions = {penalty: scipy_logistic(penalty) for penalty in PENALTIES}
    held_out = {penalty: np.logaddexp(0, -HELD_OUT @ vector).mean() for penalty, vector in solutions.items()}
    best = min(held_out, key=held_out.get)
    assert best not in (min(PENALTIES), max(PENALTIES)), "the case must be one where selection matters"
    assert fit.converged
    assert fit.penalty == best
    np.testing.assert_allclose(flat(fit.params), solutions[best], atol=1e-5)
    assert fit.held_out_loss == pytest.approx(held_out[best])
    assert fit.loss == pytest.approx(np.logaddexp(0, -DESIGN @ solutions[best]).mean())


def test_penalty_path_is_converged_only_if_every_penalty_is():
    assert not path(max_steps=1).converged
    assert path(max_steps=1).steps == len(PENALTIES)


def test_penalty_path_reports_nan():
    assert not path(loss=lambda values: jnp.nan * jnp.sum(values)).converged
    assert not path(held_out_loss=lambda params: jnp.nan * params["first"][0]).converged


def test_penalty_path_without_pairs_has_no_loss():
    fit = path(total_weight=0.0, loss=lambda values: 0.0 * jnp.sum(values))
    assert fit.loss == 0
    np.testing.assert_array_equal(flat(fit.params), 0)


def quadratic(params):
    return jnp.sum((params - 1.0) ** 2)


def test_minimise_reaches_the_minimum_within_its_tolerance():
    fit = optimize.minimise(quadratic, jnp.zeros(3), optax.adam(0.1), 2000, tolerance=1e-6)
    assert fit.converged
    assert fit.steps < 2000
    assert fit.gradient_norm <= 1e-6
    np.testing.assert_allclose(fit.params, 1, atol=1e-6)
    assert fit.held_out_loss == fit.loss


def test_early_stopping_returns_the_parameters_of_the_lowest_held_out_loss():
    """Training walks from 0 to 1 in steps of 0.1 of what is left; the held-out loss is lowest at 0.5 on the way."""

    def held_out(params):
        return jnp.sum((params - 0.5) ** 2)

    fit = optimize.minimise(quadratic, jnp.zeros(()), optax.sgd(0.05), 500, held_out, tolerance=1e-9, patience=20)
    walk = [1 - 0.9**step for step in range(100)]
    best = min(range(100), key=lambda step: (walk[step] - 0.5) ** 2)
    assert fit.params == pytest.approx(walk[best])
    assert fit.held_out_loss == pytest.approx((walk[best] - 0.5) ** 2)
    assert fit.loss == pytest.approx((walk[best] - 1) ** 2)
    assert fit.gradient_norm == pytest.approx(2 * (1 - walk[best]))
    assert fit.steps == best + 20
    assert fit.converged, "early stopping ended the search of its own accord"


def test_a_search_that_runs_out_of_steps_says_so():
    fit = optimize.minimise(quadratic, jnp.zeros(3), optax.adam(0.01), 5, tolerance=1e-6)
    assert not fit.converged
    assert fit.steps == 5
    fit = optimize.minimise(quadratic, jnp.zeros(3), optax.adam(0.01), 5, quadratic, patience=50)
    assert not fit.converged


@pytest.mark.parametrize("held_out", [None, quadratic])
def test_a_loss_that_diverges_is_reported_and_the_best_finite_parameters_are_kept(held_out):
    """Steps of 1.2 on x**4 from 2 explode within a few steps."""
    fit = optimize.minimise(lambda x: jnp.sum(x**4), jnp.full(1, 2.0), optax.sgd(1.2), 100, held_out, patience=1000)
    assert not fit.converged
    assert fit.steps < 100
    assert jnp.all(jnp.isfinite(fit.params))
    assert jnp.isfinite(fit.loss)
    if held_out is not None:
        assert fit.params == pytest.approx(2.0), "the start had the lowest held-out loss"


def test_a_held_out_loss_that_is_never_finite_is_reported():
    fit = optimize.minimise(quadratic, jnp.zeros(1), optax.sgd(0.1), 100, lambda x: jnp.nan * x[0], patience=5)
    assert not fit.converged
    fit = optimize.minimise(quadratic, jnp.zeros(1), optax.sgd(0.1), 100, lambda x: jnp.nan * x[0], tolerance=1e-3)
    assert not fit.converged


@pytest.mark.parametrize("start", [1.5, 10.0, 100.0])
def test_a_newton_step_that_overshoots_is_shortened_until_it_is_good(start):
    """On sqrt(1 + x^2) a full step from x lands at -x^3: further away from every |x| > 1."""
    params = jnp.array([start, -start])
    fit = optimize.newton(lambda x: x, lambda x: jnp.sum(jnp.sqrt(1 + x**2)), params, 1e-9, 100)
    assert fit.converged
    np.testing.assert_allclose(fit.params, 0.0, atol=1e-8)


def test_a_direction_without_a_good_step_ends_the_search_unconverged():
    """The gradient that is given is not the loss's own."""

    @jax.custom_jvp
    def lying(x):
        return jnp.sum(x**2)

    lying.defjvp(lambda x, dx: (lying(*x), -2 * jnp.sum(x[0] * dx[0])))
    fit = optimize.newton(lambda x: x, lying, jnp.ones(2), 1e-6, 50, curvature=lambda x: jnp.ones_like(x))
    assert not fit.converged
    np.testing.assert_array_equal(fit.params, 1.0)


def test_the_lowest_finite_score_is_chosen():
    candidates = {"a": jnp.arange(4.0), "b": jnp.arange(8.0).reshape(4, 2)}
    chosen = optimize.lowest(jnp.array([2.0, jnp.nan, 1.0, -jnp.inf]), candidates)
    assert chosen["a"] == 2.0
    np.testing.assert_array_equal(chosen["b"], [4.0, 5.0])
