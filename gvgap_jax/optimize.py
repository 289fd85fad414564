"""Gradient descent with early stopping or on fresh batches, and a Newton method that certifies its optimum."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from gvgap_jax.types import Count, Fit, Number, Params, PRNGKey

Scalar = Float[Array, ""]
Batch = TypeVar("Batch")
Candidates = TypeVar("Candidates")

SHRINK = 0.3  # of a Newton step that does not lower the objective enough
ROUNDING = 1e-6  # differences of values below this (in nats, or a share of them) are not believed
SMALLEST_STEP = 1e-5  # shorter ones are not tried
SUFFICIENT = 0.25  # share of the promise of its slope that a step must keep (Armijo, 1966); an exact one keeps half
CG_STEPS = 60


def minimise(
    loss: Callable[[Params], Scalar],
    params: Params,
    optimiser: optax.GradientTransformation,
    steps: Count,
    held_out_loss: Callable[[Params], Scalar] | None = None,
    tolerance: Number = 0.0,
    patience: int | None = None,
) -> Fit:
    """Gradient descent that keeps the parameters of the lowest held-out loss seen.

    Stops after ``steps`` steps, when the gradient norm falls to ``tolerance``, when ``patience``
    steps bring no lower held-out loss, or when the loss stops being finite. ``converged`` means that
    the gradient met the tolerance, or that early stopping ended the search of its own accord.
    Without a held-out loss the last parameters are returned.
    """
    optimiser = optax.with_extra_args_support(optimiser)
    infinity = jnp.full_like(jax.eval_shape(loss, params), jnp.inf)

    def step(state):
        params, optimiser_state, _, _, count, best = state
        value, gradient = jax.value_and_grad(loss)(params)  # here alone: a second copy would be compiled too
        norm = optax.tree.norm(gradient).astype(value.dtype)
        score = value if held_out_loss is None else held_out_loss(params)
        here = params, score, value, norm, count
        better = jnp.isfinite(score) & ((score < best[1]) | (held_out_loss is None))
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), here, best)
        updates, optimiser_state = optimiser.update(
            gradient, optimiser_state, params, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(params, updates), optimiser_state, value, norm, count + 1, best

    def unfinished(state):
        _, _, value, norm, evaluated, best = state
        taken = evaluated - 1
        stale = False if patience is None else taken - best[4] >= patience
        return (evaluated == 0) | (taken < steps) & (norm > tolerance) & jnp.isfinite(value) & ~jnp.asarray(stale)

    best = params, infinity, infinity, infinity, 0
    state = params, optimiser.init(params), infinity, infinity, 0, best
    _, _, value, last_norm, evaluated, best = jax.lax.while_loop(unfinished, step, state)
    params, score, best_value, gradient_norm, best_step = best
    stopped_itself = (last_norm <= tolerance) | (patience is not None and evaluated - 1 - best_step >= (patience or 0))
    return Fit(
        params=params,
        loss=best_value,
        held_out_loss=score,
        gradient_norm=gradient_norm,
        penalty=jnp.zeros_like(value),
        steps=jnp.asarray(evaluated - 1),
        converged=stopped_itself & jnp.isfinite(value) & jnp.isfinite(score) & jnp.isfinite(gradient_norm),
    )


def descend(
    key: PRNGKey,
    params: Params,
    draw: Callable[[PRNGKey, Params], Batch],
    loss: Callable[[Params, Batch], Scalar],
    learning_rate: Number,
    rounds: int,
    steps: int = 1,
) -> Fit:
    """Stochastic gradient descent: ``rounds`` times, draw a batch at the present parameters and take ``steps`` on it.

    Adam, with a learning rate that falls linearly to 0 over all steps. Loss and gradient norm are the last batch's
    before its last step: an estimate, which certifies nothing. ``converged`` means that all of them were finite.
    """
    optimiser = optax.adam(optax.linear_schedule(learning_rate, 0.0, rounds * steps))
    value_and_grad = jax.value_and_grad(loss)

    def play(state, key):
        batch = draw(key, state[0])
        state, (values, norms) = jax.lax.scan(
            lambda state, _: improve(optimiser, value_and_grad, state, batch), state, length=steps
        )
        return state, (values[-1], norms[-1])

    state, (values, norms) = jax.lax.scan(play, (params, optimiser.init(params)), jax.random.split(key, rounds))
    return Fit(
        params=state[0],
        loss=values[-1],
        held_out_loss=values[-1],
        gradient_norm=norms[-1],
        penalty=jnp.zeros_like(values[-1]),
        steps=jnp.asarray(rounds * steps),
        converged=jnp.all(jnp.isfinite(values)) & jnp.all(jnp.isfinite(norms)),
    )


def improve(
    optimiser: optax.GradientTransformation,
    value_and_grad: Callable[[Params, Batch], tuple[Scalar, Params]],
    state: tuple[Params, optax.OptState],
    batch: Batch,
) -> tuple[tuple[Params, optax.OptState], tuple[Scalar, Scalar]]:
    """One gradient step on a batch: the next (params, optimiser state), and (loss, gradient norm) before it."""
    params, optimiser_state = state
    value, gradient = value_and_grad(params, batch)
    updates, optimiser_state = optimiser.update(gradient, optimiser_state, params)
    return (optax.apply_updates(params, updates), optimiser_state), (value, optax.tree.norm(gradient))


def newton(
    outputs: Callable[[Params], Float[Array, "N"]],
    loss: Callable[[Float[Array, "N"]], Scalar],
    params: Params,
    tolerance: Number,
    max_steps: Count,
    penalty: Number = 0.0,
    curvature: Callable[[Float[Array, "N"]], Float[Array, "N"]] | None = None,
) -> Fit:
    """Minimise loss(outputs(params)) + penalty/2 norm(params)^2 until the gradient norm is at most ``tolerance``.

    Generalised Gauss-Newton with conjugate gradients (Schraudolph, 2002). The curvature of the loss in
    its outputs is its own Hessian, for a loss convex in them: exact Newton where outputs are linear in the
    parameters. Or it is the diagonal ``curvature(outputs)``: with log-probabilities as outputs and their
    probabilities as curvature this is natural-gradient descent (Amari, 1998).
    """
    start, unravel = ravel_pytree(params)

    def flat_outputs(flat):
        return outputs(unravel(flat))

    def objective(flat):
        return loss(flat_outputs(flat)) + penalty / 2 * flat @ flat

    value_and_grad = jax.value_and_grad(objective)

    def step(state):
        flat, value, gradient, count = state
        direction, _ = _direction(flat_outputs, loss, flat, gradient, penalty, curvature)
        new_flat, new_value, new_gradient, accepted = _backtrack(value_and_grad, flat, value, gradient, direction)
        return new_flat, new_value, new_gradient, jnp.where(accepted, count + 1, max_steps)

    def unfinished(state):
        _, _, gradient, count = state
        return (count < max_steps) & (jnp.linalg.norm(gradient) > tolerance)

    flat, _, gradient, count = jax.lax.while_loop(unfinished, step, (start, *value_and_grad(start), 0))
    value, gradient_norm = loss(flat_outputs(flat)), jnp.linalg.norm(gradient)
    return Fit(
        params=unravel(flat),
        loss=value,
        held_out_loss=value,
        gradient_norm=gradient_norm,
        penalty=jnp.asarray(penalty, value.dtype),
        steps=jnp.asarray(count),
        converged=(gradient_norm <= tolerance) & jnp.isfinite(value),
    )


def _direction(flat_outputs, loss, flat: Float[Array, "d"], gradient: Float[Array, "d"], penalty: Number, curvature):
    """Newton's direction [d], by conjugate gradients, and what outputs [N] change along it, to first order."""
    values, forward = jax.linearize(flat_outputs, flat)
    backward = jax.linear_transpose(forward, flat)
    if curvature is None:
        _, bend = jax.linearize(jax.grad(loss), values)
    else:
        diagonal = curvature(values)

        def bend(vector):
            return diagonal * vector

    def hessian(vector):
        (product,) = backward(bend(forward(vector)))
        return product + penalty * vector

    direction, _ = cg(hessian, -gradient, tol=0.1, maxiter=CG_STEPS)
    return direction, forward(direction)


def newton_step(
    outputs: Callable[[Params], Float[Array, "N"]], loss: Callable[[Float[Array, "N"]], Scalar], params: Params
) -> Float[Array, "N"]:
    """What one more step of ``newton`` without a penalty would change of the outputs, to first order."""
    flat, unravel = ravel_pytree(params)

    def flat_outputs(flat):
        return outputs(unravel(flat))

    gradient = jax.grad(lambda flat: loss(flat_outputs(flat)))(flat)
    return _direction(flat_outputs, loss, flat, gradient, 0.0, None)[1]


def _backtrack(value_and_grad, flat: Float[Array, "d"], value: Scalar, gradient: Float[Array, "d"], direction):
    """Shorten a step until it lowers the objective enough.

    Where rounding hides the difference of two values, its slope must say that the step has not gone too far
    (the approximate Wolfe condition of Hager and Zhang, 2005, the same on a parabola).

    Returns:
      parameters, value and gradient after the step, and whether a good step exists; if not, they are those given.
    """
    slope, rounding = gradient @ direction, ROUNDING * (1 + jnp.abs(value))

    def is_good(size, new_value, new_gradient):
        lower = new_value <= value + SUFFICIENT * size * slope
        tied = (new_value <= value + rounding) & (new_gradient @ direction <= (2 * SUFFICIENT - 1) * slope)
        return lower | tied

    def unfinished(state):
        return ~is_good(*state) & (state[0] > SMALLEST_STEP)

    def shorten(state):
        size = SHRINK * state[0]
        return size, *value_and_grad(flat + size * direction)

    # From one step too long, so that the objective is compiled into the loop alone.
    start = jnp.ones_like(value) / SHRINK, jnp.full_like(value, jnp.inf), gradient
    state = jax.lax.while_loop(unfinished, shorten, start)
    good, size = is_good(*state), state[0]
    here, there = (flat, value, gradient), (flat + size * direction, *state[1:])
    return *jax.tree.map(lambda new, old: jnp.where(good, new, old), there, here), good


def penalty_path(
    outputs: Callable[[Params], Float[Array, "N"]],
    loss: Callable[[Float[Array, "N"]], Scalar],
    held_out_loss: Callable[[Params], Scalar],
    params: Params,
    total_weight: Scalar,
    penalties: tuple[float, ...],
    tolerance: float,
    max_steps: int,
    unit: Number = 1.0,
) -> Fit:
    """The fit of the lowest held-out loss among Newton's optima for every ridge penalty, strongest first.

    ``loss`` is a mean over pairs; the objective is total_weight * loss + penalty/2 norm(unit (params - start))^2, so
    a penalty counts in pairs, and pulls towards the start: a network pulled towards 0 would rest at its saddle
    there. ``unit`` is the reward that a parameter of 1 is worth. Penalties and gradients are in reward, so that a class
    of logits and one of rewards are held alike. The tolerance is a share of sqrt(total_weight), the size of the
    sampling noise in the gradient: at 1e-3 the optimisation error is a thousandth of the statistical one.
    """
    limit = tolerance * jnp.sqrt(total_weight)
    pairs = jnp.where(total_weight > 0, total_weight, 1.0)

    def moved(change):
        return jax.tree.map(lambda start, reward: start + reward / unit, params, change)

    def moved_outputs(change):
        return outputs(moved(change))

    def solve(change, penalty):
        fit = newton(moved_outputs, lambda values: total_weight * loss(values), change, limit, max_steps, penalty)
        end = moved(fit.params)
        return fit.params, fit._replace(params=end, loss=fit.loss / pairs, held_out_loss=held_out_loss(end))

    _, path = jax.lax.scan(solve, jax.tree.map(jnp.zeros_like, params), jnp.array(sorted(penalties, reverse=True)))
    selected = lowest(path.held_out_loss, path)
    converged = jnp.all(path.converged & jnp.isfinite(path.held_out_loss))
    return selected._replace(steps=jnp.sum(path.steps), converged=converged)


def lowest(scores: Float[Array, "K"], candidates: Candidates) -> Candidates:
    """The candidate of the lowest finite score, from a pytree whose leaves have K candidates in front."""
    best = jnp.argmin(jnp.where(jnp.isfinite(scores), scores, jnp.inf))
    return jax.tree.map(lambda values: values[best], candidates)
