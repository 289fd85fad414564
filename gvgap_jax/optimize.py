"""The one training loop, with early stopping on held-out pairs, and a Newton method that certifies its optimum."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from gvgap_jax.types import Fit, Params

Scalar = Float[Array, ""]

STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.02)  # tried at once in every Newton step; the best one is taken
CG_STEPS = 60


def minimise(
    loss: Callable[[Params], Scalar],
    params: Params,
    optimiser: optax.GradientTransformation,
    steps: int,
    held_out_loss: Callable[[Params], Scalar] | None = None,
    tolerance: float = 0.0,
    patience: int | None = None,
) -> Fit:
    """Gradient descent that keeps the parameters of the lowest held-out loss seen.

    Stops after ``steps`` steps, when the gradient norm falls to ``tolerance``, when ``patience``
    steps bring no lower held-out loss, or when the loss stops being finite. ``converged`` means that
    the gradient met the tolerance, or that early stopping ended the search of its own accord.
    Without a held-out loss the last parameters are returned.
    """
    optimiser = optax.with_extra_args_support(optimiser)
    value_and_grad = jax.value_and_grad(loss)

    def improve(state):
        params, optimiser_state, value, gradient, step, best = state
        updates, optimiser_state = optimiser.update(
            gradient, optimiser_state, params, value=value, grad=gradient, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
        value, gradient = value_and_grad(params)
        return params, optimiser_state, value, gradient, step + 1, keep(params, value, step + 1, best)

    def keep(params, value, step, best):
        score = value if held_out_loss is None else held_out_loss(params)
        better = jnp.isfinite(score) & ((score < best[1]) | (held_out_loss is None))
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), (params, score, value, step), best)

    def unfinished(state):
        _, _, value, gradient, step, best = state
        stale = False if patience is None else step - best[3] >= patience
        return (step < steps) & (optax.tree.norm(gradient) > tolerance) & jnp.isfinite(value) & ~jnp.asarray(stale)

    value, gradient = value_and_grad(params)
    best = keep(params, value, 0, (params, jnp.full_like(value, jnp.inf), value, 0))
    state = params, optimiser.init(params), value, gradient, 0, best
    _, _, value, gradient, step, (params, score, best_value, best_step) = jax.lax.while_loop(unfinished, improve, state)
    gradient_norm = optax.tree.norm(jax.grad(loss)(params)) if held_out_loss is not None else optax.tree.norm(gradient)
    stopped_itself = (gradient_norm <= tolerance) | (patience is not None and step - best_step >= (patience or 0))
    return Fit(
        params=params,
        loss=best_value,
        held_out_loss=score,
        gradient_norm=gradient_norm,
        penalty=jnp.zeros_like(value),
        steps=step,
        converged=stopped_itself & jnp.isfinite(value) & jnp.isfinite(gradient_norm),
    )


def newton(
    outputs: Callable[[Params], Float[Array, "N"]],
    loss: Callable[[Float[Array, "N"]], Scalar],
    params: Params,
    penalty: Scalar | float,
    tolerance: Scalar | float,
    max_steps: int,
) -> tuple[Params, Scalar, Scalar]:
    """Minimise loss(outputs(params)) + penalty/2 |params|^2 for a ``loss`` convex in its outputs.

    Generalised Gauss-Newton with conjugate gradients: exact Newton where the outputs are linear in
    the parameters, and a descent direction everywhere else (Schraudolph, 2002).

    Returns:
      params, the Euclidean norm of the gradient there, and the steps taken.
    """
    start, unravel = ravel_pytree(params)

    def flat_outputs(flat):
        return outputs(unravel(flat))

    def objective(flat):
        return loss(flat_outputs(flat)) + penalty / 2 * flat @ flat

    def step(state):
        flat, gradient, count, _ = state
        values, forward = jax.linearize(flat_outputs, flat)
        backward = jax.linear_transpose(forward, flat)
        _, curvature = jax.linearize(jax.grad(loss), values)

        def hessian(vector):
            (product,) = backward(curvature(forward(vector)))
            return product + penalty * vector

        direction, _ = cg(hessian, -gradient, tol=0.1, maxiter=CG_STEPS)
        candidates = flat + jnp.array(STEP_SIZES)[:, None] * direction
        chosen = jnp.argmin(jnp.nan_to_num(jax.lax.map(objective, candidates), nan=jnp.inf))
        flat = candidates[chosen]
        return flat, jax.grad(objective)(flat), count + 1, values

    def unfinished(state):
        _, gradient, count, _ = state
        return (count < max_steps) & (jnp.linalg.norm(gradient) > tolerance)

    state = start, jax.grad(objective)(start), 0, jnp.zeros_like(flat_outputs(start))
    flat, gradient, count, _ = jax.lax.while_loop(unfinished, step, state)
    return unravel(flat), jnp.linalg.norm(gradient), jnp.asarray(count)


def penalty_path(
    outputs: Callable[[Params], Float[Array, "N"]],
    loss: Callable[[Float[Array, "N"]], Scalar],
    held_out_loss: Callable[[Params], Scalar],
    params: Params,
    total_weight: Scalar,
    penalties: tuple[float, ...],
    tolerance: float,
    max_steps: int,
) -> Fit:
    """Newton's optimum for every ridge penalty, strongest first, and the one of the lowest held-out loss.

    ``loss`` is a mean over pairs; the objective is total_weight * loss + penalty/2 |params|^2, so a
    penalty counts in pairs. The tolerance is a share of sqrt(total_weight), the size of the sampling
    noise in the gradient: at 1e-3 the optimisation error is a thousandth of the statistical one.
    """
    scale = jnp.sqrt(total_weight)

    def solve(params, penalty):
        params, gradient_norm, steps = newton(
            outputs, lambda values: total_weight * loss(values), params, penalty, tolerance * scale, max_steps
        )
        return params, (params, loss(outputs(params)), held_out_loss(params), gradient_norm, steps)

    ladder = jnp.array(sorted(penalties, reverse=True))
    _, (path, losses, held_out, gradient_norms, steps) = jax.lax.scan(solve, params, ladder)
    best = jnp.argmin(jnp.where(jnp.isfinite(held_out), held_out, jnp.inf))
    return Fit(
        params=jax.tree.map(lambda values: values[best], path),
        loss=losses[best],
        held_out_loss=held_out[best],
        gradient_norm=gradient_norms[best],
        penalty=ladder[best],
        steps=jnp.sum(steps),
        converged=jnp.all(gradient_norms <= tolerance * scale) & jnp.all(jnp.isfinite(held_out)),
    )
