"""The training loop as pure functions: steps by ``lax.scan``, one run a call, so that many runs are a ``vmap``.

A dispatch is some evaluations, an evaluation follows ``evaluate_every`` steps, and steps take what the objective
draws. A run that has stopped keeps its state whatever is computed beside it.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from gvgap_jax import optimize
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Fit, Number, Params, PRNGKey

MEMORY = 0.95  # of Adam's second moment, as Llama was trained (arXiv 2302.13971): 0.999 remembers the steep start
RUNNING, STOPPED_EARLY, NOT_FINITE = range(3)

Curves = dict[str, Array]


@dataclass(frozen=True)
class Training:
    """How a run descends (AdamW, arXiv 1711.05101); hashable, because it decides the program.

    Attributes:
      steps: gradient steps in all, a multiple of ``evaluate_every``.
      steps_a_batch: gradient steps on every batch that is drawn.
      accumulate: equal parts that a batch is cut into, one after another through memory.
      schedule: of the learning rate after the warm-up: ``constant``, or to 0 at the last step.
      warm_up: steps in which the learning rate rises linearly from 0.
      clip: largest gradient norm, None for no limit.
      weight_decay: a step's pull towards 0, times the learning rate.
      evaluate_every: steps between evaluations of the held-out loss, a multiple of ``steps_a_batch``.
      patience: evaluations without a lower held-out loss after which a run stops, None for never.
      steps_a_dispatch: a multiple of ``evaluate_every``: between dispatches, metrics and checkpoints are written.
    """

    steps: int = 1000
    steps_a_batch: int = 1
    accumulate: int = 1
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warm_up: int = 0
    clip: float | None = 1.0
    weight_decay: float = 0.0
    evaluate_every: int = 50
    patience: int | None = None
    steps_a_dispatch: int = 100

    def __post_init__(self):
        for name in ("steps", "steps_a_batch", "accumulate", "evaluate_every", "steps_a_dispatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"Training: {name} must be at least 1, got {getattr(self, name)}.")
        parts = [("evaluate_every", "steps_a_batch"), ("steps", "evaluate_every")]
        for whole, part in [*parts, ("steps_a_dispatch", "evaluate_every")]:
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"Training: {whole} must be a multiple of {part}, got {getattr(self, whole)} and "
                    f"{getattr(self, part)}."
                )
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"Training: schedule must be 'constant', 'linear' or 'cosine', got {self.schedule!r}.")
        if not 0 <= self.warm_up < self.steps:
            raise ValueError(f"Training: warm_up must be at least 0 and below {self.steps} steps, got {self.warm_up}.")
        if (self.clip is not None and not self.clip > 0) or (self.patience is not None and self.patience < 1):
            raise ValueError(f"Training: clip must be above 0 and patience at least 1, got {self}.")


class State(NamedTuple):
    """Where a run is: all that a checkpoint must hold.

    Attributes:
      params, optimiser: after the last step that was finite.
      key: determines every batch; the position in the data is ``step``.
      step: gradient steps taken.
      status: RUNNING, STOPPED_EARLY, or NOT_FINITE: step + 1 had a loss, gradient or parameters that were not.
      loss, gradient_norm: of the last batch before its last step.
      best, held_out_loss: parameters of the lowest held-out loss yet, and that loss; None and the loss of the last
        batch where nothing is held out.
      stale: evaluations since.
    """

    params: Params
    optimiser: optax.OptState
    key: PRNGKey
    step: Int[Array, ""]
    status: Int[Array, ""]
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    best: Params | None
    held_out_loss: Float[Array, ""]
    stale: Int[Array, ""]


def start(objective: Objective, training: Training, key: PRNGKey) -> State:
    """A run before its first step; consumes the key."""
    init_key, key = jax.random.split(key)
    params = objective.init(init_key)
    none = jnp.full((), jnp.nan, float)  # weakly typed, it would be compiled for twice
    return State(
        params=params,
        optimiser=optimiser(training, 0.0).init(params),
        key=key,
        step=jnp.zeros((), jnp.int32),
        status=jnp.full((), RUNNING, jnp.int32),
        loss=none,
        gradient_norm=none,
        best=None if objective.held_out is None else params,
        held_out_loss=none if objective.held_out is None else objective.held_out(params, objective.loss),
        stale=jnp.zeros((), jnp.int32),
    )


def advance(
    objective: Objective, training: Training, evaluations: int, learning_rate: Number, state: State
) -> tuple[State, Curves]:
    """So many times ``evaluate_every`` steps and an evaluation.

    Returns:
      the state, and curves of one number a step: ``step``, ``running`` (False: the run had stopped before),
      ``loss``, ``gradient_norm`` before clipping, ``learning_rate``, ``held_out_loss`` (of the evaluation that
      follows the step), and what the objective measures.
    """

    def block(state, _):
        state, rows = _steps(objective, training, learning_rate, state)
        state, held_out = _evaluate(objective, training, state)
        if held_out is not None:
            rows["held_out_loss"] = jnp.full(training.evaluate_every, jnp.nan).at[-1].set(held_out)
        return state, rows

    state, curves = jax.lax.scan(block, state, length=evaluations)
    return state, jax.tree.map(lambda values: values.reshape(-1), curves)


def train(objective: Objective, training: Training, learning_rate: Number, key: PRNGKey) -> Fit:
    """A whole run as one pure function, without curves: what a sweep maps over its cells. Consumes the key."""

    def unfinished(state):
        return (state.status == RUNNING) & (state.step < training.steps)

    def block(state):
        return advance(objective, training, 1, learning_rate, state)[0]

    return fit_of(jax.lax.while_loop(unfinished, block, start(objective, training, key)))


def fit_of(state: State) -> Fit:
    """The selected parameters. Training loss and gradient norm are the last batch's: they certify nothing."""
    return Fit(
        params=state.params if state.best is None else state.best,
        loss=state.loss,
        held_out_loss=state.loss if state.best is None else state.held_out_loss,
        gradient_norm=state.gradient_norm,
        penalty=jnp.zeros_like(state.loss),
        steps=state.step,
        converged=(state.status != NOT_FINITE) & jnp.isfinite(state.loss),
    )


def optimiser(training: Training, learning_rate: Number) -> optax.GradientTransformation:
    """Clipping, then AdamW on the schedule."""

    def rate(step):
        return learning_rate * schedule(training)(step)

    adam = optax.adamw(rate, b2=MEMORY, weight_decay=training.weight_decay)
    return adam if training.clip is None else optax.chain(optax.clip_by_global_norm(training.clip), adam)


def schedule(training: Training) -> optax.Schedule:
    """Steps taken -> share of the learning rate."""
    left = training.steps - training.warm_up
    fall = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, 0.0, left),
        "cosine": optax.cosine_decay_schedule(1.0, left),
    }[training.schedule]
    if not training.warm_up:
        return fall
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, training.warm_up), fall], [training.warm_up])


def _steps(objective: Objective, training: Training, learning_rate: Number, state: State) -> tuple[State, Curves]:
    """``evaluate_every`` steps; every batch serves ``steps_a_batch`` of them."""

    def play(state, _):
        batch = objective.draw(state.key, state.params, state.step // training.steps_a_batch)
        measured = objective.measure(batch)
        parts = _cut(batch, training.accumulate)
        return jax.lax.scan(
            lambda state, _: _step(objective, training, learning_rate, parts, measured, state),
            state,
            length=training.steps_a_batch,
        )

    return jax.lax.scan(play, state, length=training.evaluate_every // training.steps_a_batch)


def _step(objective: Objective, training: Training, learning_rate: Number, parts, measured: Curves, state: State):
    """One step on a batch in parts, and its row of the curves; not taken if anything in it is not finite."""
    (params, memory), (loss, norm) = optimize.improve(
        optimiser(training, learning_rate), _accumulated(objective), (state.params, state.optimiser), parts
    )
    running = state.status == RUNNING
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(params))
    taken = state._replace(params=params, optimiser=memory, step=state.step + 1, loss=loss, gradient_norm=norm)
    kept = state._replace(status=jnp.where(running, NOT_FINITE, state.status))
    row = {
        "step": state.step + 1,
        "running": running,
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": learning_rate * schedule(training)(state.step),
    }
    return _where(running & finite, taken, kept), row | measured


def _accumulated(objective: Objective):
    """params, batch in parts -> the loss of the whole batch and its gradient, part by part."""

    def part(params, total, batch):
        weight = jnp.asarray(objective.weight(batch), total[0].dtype)
        share = weight, jax.tree.map(lambda values: weight * values, jax.value_and_grad(objective.loss)(params, batch))
        return jax.tree.map(jnp.add, total, share)

    def value_and_grad(params, parts):
        if jax.tree.leaves(parts)[0].shape[0] == 1:
            return jax.value_and_grad(objective.loss)(params, jax.tree.map(lambda values: values[0], parts))
        zero = jax.tree.map(jnp.zeros_like, params)
        loss = jax.eval_shape(objective.loss, params, jax.tree.map(lambda values: values[0], parts))
        start = jnp.zeros((), loss.dtype), (jnp.zeros((), loss.dtype), zero)
        (weight, sums), _ = jax.lax.scan(lambda total, batch: (part(params, total, batch), None), start, parts)
        return jax.tree.map(lambda values: values / jnp.where(weight > 0, weight, 1).astype(values.dtype), sums)

    return value_and_grad


def _cut(batch: Any, parts: int) -> Any:
    """Leaves [B, ...] as [parts, B / parts, ...]; ValueError if a leaf cannot be cut evenly."""
    sizes = {values.shape[0] for values in jax.tree.leaves(batch)}
    uneven = sorted(size for size in sizes if size % parts)
    if uneven:
        raise ValueError(f"Training: accumulate={parts} does not divide a batch of {uneven[0]}; choose a divisor.")
    return jax.tree.map(lambda values: values.reshape(parts, len(values) // parts, *values.shape[1:]), batch)


def _evaluate(objective: Objective, training: Training, state: State) -> tuple[State, Float[Array, ""] | None]:
    """Keep the parameters if their held-out loss is the lowest yet; stop the run if it has not been for long."""
    if objective.held_out is None:
        return state, None
    held_out = objective.held_out(state.params, objective.loss)
    running = state.status == RUNNING
    # A start that is not finite is better than nothing, and worse than anything.
    better = running & jnp.isfinite(held_out) & ~(held_out >= state.held_out_loss)
    stale = jnp.where(better, 0, state.stale + running)
    tired = running & (stale >= (training.patience or jnp.inf))
    state = state._replace(
        best=_where(better, state.params, state.best),
        held_out_loss=jnp.where(better, held_out, state.held_out_loss),
        stale=stale,
        status=jnp.where(tired, STOPPED_EARLY, state.status),
    )
    return state, held_out


def _where(condition: Bool[Array, ""], new, old):
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)
