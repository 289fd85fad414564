"""The methods from preferences to a policy, all with one signature: key, classes, problem, settings -> Fit.

The returned parameters belong to ``classes.policy``. Every method is a pure function, so that seeds and
cells are a ``vmap``. All see the same pairs, reference policy, beta, tuning budget and selection rule,
and none asks whether its policy is a table or a network.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gvgap_jax import losses, optimize, preferences
from gvgap_jax.soft_rl import REVERSE_KL, Regulariser
from gvgap_jax.tasks import Known
from gvgap_jax.types import (
    Count,
    Fit,
    HeldOut,
    Number,
    Params,
    Policy,
    Preferences,
    PRNGKey,
    TreePolicy,
    TreeVerifier,
    Verifier,
)

RESTS = 0.1  # log odds: one more Newton step moves margins by less, if there is an optimum and it is found
EXACT_MEMORY = 0.95  # Adam's b2 where gradients have no noise to average out: it forgets the steep start soon
PENALTIES = tuple(10.0 ** (half / 2) for half in range(8, -3, -1))  # 10,000 down to 0.1 pairs, half a decade apart


class Problem(NamedTuple):
    """The data that every method is given: no gold reward is among them.

    Attributes:
      known: reference policy, prompts, beta and temperature of the task.
      train, held_out: pairs to fit and pairs to select by.
      demonstrations: [X, L] joint law of prompts and demonstrated responses, summing to 1, for the
        methods that learn from demonstrations.
    """

    known: Known
    train: Preferences
    held_out: HeldOut
    demonstrations: Float[Array, "X L"] | None = None


class Classes(NamedTuple):
    """The classes that methods fit, on one tree: policies, reward models, and Pi(R), their soft-optimal policies."""

    policy: TreePolicy
    verifier: TreeVerifier | None = None
    soft_optimal: TreePolicy | None = None


@dataclass(frozen=True)
class Settings:
    """Solver, penalties and step sizes of every fit; hashable, because they decide the program.

    Attributes:
      solver: ``newton`` follows the ridge penalties and selects one on the held-out pairs;
        ``adam`` starts at the reference, and stops early on the held-out pairs.
      penalties: the ridge penalties tried by ``newton``, in pairs, on parameters in units of reward: the same for a
        class of policies as for one of reward models. Logits are worth beta each, so theirs is beta**2 times it.
      tolerance: gradient norm at the optimum, as a share of its sampling noise (see ``penalty_path``).
      newton_steps: at most so many Newton steps for each penalty.
      learning_rate, adam_steps, patience: of the Adam loop, in its own units and in steps. ``adam_steps`` and
        ``rl_steps`` do not decide the program, and may be arrays in settings made inside it (which then have no hash).
      rl_tolerance, rl_steps: gradient norm and most steps of the solver in the exact objectives that have no
        sampling noise: a second stage without closed form, SFT, a round of SPIN (Newton's always).
      spin_rounds: self-play rounds.
      pair_loss: margins [N] and weights [N] -> mean loss, ``losses.bradley_terry`` or ``losses.ipo``.
    """

    solver: Literal["newton", "adam"] = "newton"
    penalties: tuple[float, ...] = PENALTIES
    tolerance: float = 1e-3
    newton_steps: int = 30
    learning_rate: float = 0.03
    adam_steps: Count = 2000
    patience: int = 200
    rl_tolerance: float = 1e-4
    rl_steps: Count = 100
    spin_rounds: int = 10
    pair_loss: Callable[[Float[Array, "N"], Float[Array, "N"]], Float[Array, ""]] = losses.bradley_terry

    def __post_init__(self):
        if self.solver not in ("newton", "adam"):
            raise ValueError(f"Settings: solver must be 'newton' or 'adam', got {self.solver!r}.")
        if not self.penalties or not all(0 <= penalty < math.inf for penalty in self.penalties):
            raise ValueError(
                f"Settings: penalties must be a non-empty tuple of finite numbers >= 0, got {self.penalties}."
            )


Needed = TypeVar("Needed")
Method = Callable[[PRNGKey, Classes, Problem, Settings], Fit]


def dpo(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Offline preference likelihood over policies (arXiv 2305.18290): Bradley-Terry on local rewards."""
    return _fit_policy(key, classes.policy, problem, settings)


def reward_model(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Stage one of RLHF: Bradley-Terry over reward models. The parameters returned are the verifier's."""
    verifier = _needed(classes.verifier, "a verifier class")

    def margins(params: Params, pairs: Preferences):
        return reward_margin(params, pairs, verifier, problem.known.temperature)

    return _fit_margins(verifier.init(key), margins, problem, settings, verifier.unit)


def reward_margin(params: Params, pairs: Preferences, verifier: Verifier, temperature: Number) -> Float[Array, "N"]:
    """Score of the chosen less that of the rejected response, over the label temperature."""
    chosen, rejected = preferences.of_both(verifier.score, params, pairs)
    return (chosen - rejected) / temperature


def second_stage(
    key: PRNGKey,
    policy: TreePolicy,
    reward: Float[Array, "X L"],
    known: Known,
    settings: Settings,
    regulariser: Regulariser = REVERSE_KL,
) -> Fit:
    """Stage two of RLHF: the policy of the class that maximises J for ``reward``.

    Closed form where the class holds every policy; otherwise the reverse-KL projection of the
    soft-optimal policy onto the class (Lemma 2.1), by descent on the exact objective: natural-gradient, or Adam's.
    Another regulariser makes another J, and its optimum.
    """

    def loss(log_policy):
        judged = reward, known.reference, known.beta, known.prompt_probs
        return losses.kl_regularised(log_policy, *judged, regulariser.divergence)

    if policy.from_log_probs is not None:
        params = policy.from_log_probs(regulariser.optimal(reward, known.reference, known.beta))
        value, zero = loss(policy.leaf_log_probs(params)), jnp.zeros(())
        return Fit(params, value, value, zero, zero, jnp.zeros((), int), jnp.isfinite(value))
    return _descend(policy.init(key), policy.leaf_log_probs, loss, known.beta * known.prompt_probs, settings)


def rlhf(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Two-stage RLHF: fit a reward model, then maximise J for it.

    The losses and the penalty reported are the reward model's; the gradient norm is the larger of
    the two stages' and ``converged`` speaks for both.
    """
    reward_key, policy_key = jax.random.split(key)
    reward_fit = reward_model(reward_key, classes, problem, settings)
    reward = _needed(classes.verifier, "a verifier class").leaf_scores(reward_fit.params)
    policy_fit = second_stage(policy_key, classes.policy, reward, problem.known, settings)
    return _both_stages(reward_fit, policy_fit)


def restricted_mle(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Offline likelihood over Pi(R) alone, the right-hand side of Theorem 3.1 (arXiv 2503.01067).

    ``dpo`` whose policies are ``classes.soft_optimal``, handed to ``classes.policy``. Where that class does not hold
    every policy it gets the reverse-KL projection: the second stage for the policy's local reward (Lemma 2.1).
    """
    restricted = _needed(classes.soft_optimal, "Pi(R), see verifiers.soft_optimal_class")
    fit = _fit_policy(key, restricted, problem, settings)
    log_policy = restricted.leaf_log_probs(fit.params)
    if classes.policy.from_log_probs is not None:
        return fit._replace(params=classes.policy.from_log_probs(log_policy))
    _, policy_key = jax.random.split(key)  # the second stage of ``rlhf`` starts there too
    local_reward = problem.known.beta * (log_policy - problem.known.reference)
    return _both_stages(fit, second_stage(policy_key, classes.policy, local_reward, problem.known, settings))


def sft(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Maximum likelihood on demonstrations, as an exact sum over leaves."""
    policy, demonstrations = classes.policy, _needed(problem.demonstrations, "demonstrations")

    def loss(log_policy):
        return losses.sft(log_policy.reshape(-1), demonstrations.reshape(-1))

    return _descend(policy.init(key), policy.leaf_log_probs, loss, jnp.sum(demonstrations, axis=-1), settings)


def spin(key: PRNGKey, classes: Classes, problem: Problem, settings: Settings) -> Fit:
    """Self-play fine-tuning (arXiv 2401.01335): demonstrations against the current policy, exact over leaf pairs.

    Every round fits the local rewards beta log pi/pi_t to tell demonstrations from responses of the
    current policy pi_t, starting at the reference. The gradient norm and losses are the last round's;
    ``converged`` speaks for all of them.
    """
    policy, demonstrations = classes.policy, _needed(problem.demonstrations, "demonstrations")

    def round_of_play(state, _):
        opponent = policy.leaf_log_probs(state.params)
        weight = demonstrations[:, :, None] * jnp.exp(opponent)[:, None, :]

        def margins(params: Params):
            reward = problem.known.beta * (policy.leaf_log_probs(params) - opponent)
            return (reward[:, :, None] - reward[:, None, :]).reshape(-1)

        def loss(values):
            return settings.pair_loss(values, weight.reshape(-1))

        fit = optimize.newton(margins, loss, state.params, settings.rl_tolerance, settings.rl_steps)
        return fit._replace(steps=state.steps + fit.steps, converged=state.converged & fit.converged), None

    start = policy.init(key)
    zero = jnp.zeros(())
    state = Fit(start, zero, zero, zero, zero, jnp.zeros((), int), jnp.array(True))
    fit, _ = jax.lax.scan(round_of_play, state, length=settings.spin_rounds)
    return fit


def _both_stages(first: Fit, second: Fit) -> Fit:
    """The policy of the second stage, with the losses and the penalty of the first."""
    return first._replace(
        params=second.params,
        gradient_norm=jnp.maximum(first.gradient_norm, second.gradient_norm),
        steps=first.steps + second.steps,
        converged=first.converged & second.converged,
    )


def _descend(params: Params, leaf_log_probs, loss, prompt_weight: Float[Array, "X"], settings: Settings) -> Fit:
    """Minimise a loss of leaf log-probabilities [X, L] that has no sampling noise.

    Adam's learning rate falls to 0 along a cosine; Newton's curvature is the Fisher information of each prompt.
    """
    if settings.solver == "adam":

        def rate(step):
            return settings.learning_rate * (1 + jnp.cos(jnp.pi * step / settings.rl_steps)) / 2

        return optimize.minimise(
            lambda params: loss(leaf_log_probs(params)),
            params,
            optax.adam(rate, b2=EXACT_MEMORY),
            settings.rl_steps,
            tolerance=settings.rl_tolerance,
        )

    def fisher(log_policy):
        return (prompt_weight[:, None] * jnp.exp(log_policy.reshape(prompt_weight.shape[0], -1))).reshape(-1)

    return optimize.newton(
        lambda params: leaf_log_probs(params).reshape(-1),
        lambda log_policy: loss(log_policy.reshape(prompt_weight.shape[0], -1)),
        params,
        settings.rl_tolerance,
        settings.rl_steps,
        curvature=fisher,
    )


def _fit_policy(key: PRNGKey, policy: Policy, problem: Problem, settings: Settings) -> Fit:
    def margins(params: Params, pairs: Preferences):
        chosen, rejected = preferences.of_both(policy.log_prob, params, pairs)
        local = losses.local_margin(chosen, rejected, pairs.reference_margin, problem.known.beta)
        return local / problem.known.temperature

    return _fit_margins(policy.init(key), margins, problem, settings, problem.known.beta * policy.unit)


def _fit_margins(params: Params, margins, problem: Problem, settings: Settings, unit: Number) -> Fit:
    train, held_out = problem.train, problem.held_out.pairs

    def train_margins(params: Params):
        return margins(params, train)

    def train_loss(values):
        return settings.pair_loss(values, train.weight)

    def held_out_loss(params: Params):
        loss = losses.bradley_terry(margins(params, held_out), held_out.weight)
        return jnp.where(jnp.sum(held_out.weight) > 0, loss, jnp.nan)  # no pair selects nothing

    _check_held_out(held_out)
    if settings.solver == "newton":
        if 0.0 in settings.penalties:
            _check_has_minimiser(params, train_margins, train)
        fit = optimize.penalty_path(
            train_margins,
            train_loss,
            held_out_loss,
            params,
            jnp.sum(train.weight),
            settings.penalties,
            settings.tolerance,
            settings.newton_steps,
            unit,
        )
        if 0.0 not in settings.penalties:
            return fit
        moves = jnp.where(train.weight > 0, jnp.abs(optimize.newton_step(train_margins, train_loss, fit.params)), 0.0)
        # Separable pairs have no optimum: every Newton step raises some margin by about 1, however flat the loss is.
        return fit._replace(converged=fit.converged & ((fit.penalty > 0) | (jnp.max(moves) < RESTS)))
    return optimize.minimise(
        lambda params: train_loss(train_margins(params)),
        params,
        optax.adam(settings.learning_rate),
        settings.adam_steps,
        held_out_loss,
        tolerance=settings.tolerance / jnp.sqrt(jnp.sum(train.weight)),
        patience=settings.patience,
    )


def _check_held_out(pairs: Preferences) -> None:
    """Raise ValueError where no pair is held out; in a compiled program the fit has not converged instead."""
    total = jnp.sum(pairs.weight)
    if not isinstance(total, Tracer) and total == 0:
        raise ValueError("no pair is held out, so that nothing can be selected by: give at least 5 pairs, or more.")


def _check_has_minimiser(params: Params, margins, pairs: Preferences) -> None:
    """Raise ValueError for separable pairs; inside a compiled program, where values are not known yet, do nothing."""
    flat, unravel = ravel_pytree(params)
    differences = jax.jacfwd(lambda vector: margins(unravel(vector)))(flat)
    try:
        present = np.asarray(pairs.weight) > 0
        preferences.check_not_separable(differences[present])
    except jax.errors.TracerArrayConversionError:
        return


def _needed(value: Needed | None, what: str) -> Needed:
    if value is None:
        raise ValueError(f"this method needs {what}; the classes or the problem it was given have none.")
    return value
