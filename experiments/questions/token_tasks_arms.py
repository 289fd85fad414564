"""Arms of the token tasks: transformers on the same pairs, steps and learning rates to choose from."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from experiments.kit.problems import HELD_OUT_EVERY
from experiments.questions.token_tasks_families import FAMILIES, Sizes
from gvgap_jax import algorithms, metrics, optimize, rollouts
from gvgap_jax.lm.model.classes import transformer_policy, transformer_verifier
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.token_tasks import TokenTask, environment
from gvgap_jax.training import loop, objectives
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Fit, HeldOut, Number, Params, Policy, Preferences, PRNGKey, Verifier

REFERENCE, DPO, SAME, SIMPLE, GOLD = ARMS = (
    "reference",
    "DPO",
    "RLHF, same network",
    "RLHF, simple verifier",
    "RL on the gold reward",
)
BATCH = 64  # pairs of a gradient step on pairs
PROMPTS, SAMPLES = 32, 4  # of a gradient step of RLOO: as many responses as there are in a batch of pairs
LEARNING_RATES = (0.003, 0.01)
EVERY = 25  # steps between looks at the held-out pairs
PATIENCE = 4  # looks without a lower held-out loss after which a fit stops
CHOOSING = 512  # prompts on which RL chooses its learning rate


class Program(NamedTuple):
    """What decides the compiled program: the kind of task, the transformers, the numbers of pairs and of steps."""

    family: str
    sizes: Sizes
    shape: Shape
    pairs: int
    steps: int


class Scene(NamedTuple):
    """What the arms of a row share.

    Attributes:
      program, task: sizes and gold reward.
      policy, start: the class of transformers, and its parameters at the reference.
      train, held_out: pairs.
      key: of every fit.
      choosing: of the responses that RL chooses its learning rate by.
    """

    program: Program
    task: TokenTask
    policy: Policy
    start: Params
    train: Preferences
    held_out: HeldOut
    key: PRNGKey
    choosing: PRNGKey


class Outcome(NamedTuple):
    """Where an arm ends.

    Attributes:
      params: of its policy.
      accuracy: share of the held-out pairs that its reward orders as labelled, a tie counts one half.
      converged: whether all that it fitted is finite.
    """

    params: Params
    accuracy: Float[Array, ""]
    converged: Bool[Array, ""]


def task_of(family: str, sizes: Sizes, beta: Number, seed) -> tuple[TokenTask, PRNGKey]:
    """The task of a row, and a key for all the rest; the family, its sizes and the seed decide them."""
    task_key, key = jax.random.split(jax.random.key(seed))
    return FAMILIES[family].draw(task_key, sizes, beta), key


def scene_of(program: Program, cell: dict) -> tuple[Scene, PRNGKey]:
    """Task, pairs and start of a row, and the key of the responses that its arms are judged by."""
    task, key = task_of(program.family, program.sizes, cell["beta"], cell["seed"])
    start_key, pairs_key, fit_key, judge_key, choosing_key = jax.random.split(key, 5)
    policy = transformer_policy(program.shape, task.horizon)
    start = policy.init(start_key)
    # Coin flips are labels of a gold reward of zero.
    labels = environment(task, lambda prompts, responses: cell["informed"] * task.reward(prompts, responses))
    drawn = rollouts.pairs(pairs_key, policy, start, labels, program.pairs)
    held = np.arange(program.pairs) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    train, held_out = (jax.tree.map(lambda rows, kept=kept: rows[kept], drawn) for kept in (~held, held))
    return Scene(program, task, policy, start, train, HeldOut(held_out), fit_key, choosing_key), judge_key


def arms(scene: Scene) -> dict[str, Outcome]:
    """Every arm; those that run RL differ in their reward model alone."""
    offline = _tuned(scene, _dpo(scene), lambda fit: fit.held_out_loss)
    offline_arms = {
        REFERENCE: Outcome(scene.start, jnp.full((), 0.5, float), jnp.array(True)),
        DPO: Outcome(offline.params, accuracy(_implicit(scene.policy), offline.params, scene), offline.converged),
    }
    return offline_arms | _two_stage(scene)


def accuracy(verifier: Verifier, params: Params, scene: Scene) -> Float[Array, ""]:
    """Share of the held-out pairs that a reward model orders as labelled, a tie counts one half."""
    margin = algorithms.reward_margin(params, scene.held_out.pairs, verifier, 1.0)
    return metrics.pair_accuracy(margin, scene.held_out.pairs.weight)


def _tuned(scene: Scene, objective: Objective, score: Callable[[Fit], Float[Array, ""]]) -> Fit:
    """The fit of the learning rate with the lowest ``score``."""
    training = loop.Training(scene.program.steps, evaluate_every=EVERY, steps_a_dispatch=EVERY, patience=PATIENCE)

    def fit(learning_rate):
        return loop.train(objective, training, learning_rate, scene.key)

    fits = jax.vmap(fit)(jnp.array(LEARNING_RATES))
    return optimize.lowest(jax.vmap(score)(fits), fits)


def _dpo(scene: Scene) -> Objective:
    objective = objectives.dpo(scene.policy, scene.train, scene.held_out, batch=BATCH, beta=scene.task.beta)
    return objective._replace(init=lambda key: scene.start)


def _implicit(policy: Policy) -> Verifier:
    """The local reward of a policy, where every response is as likely under the reference."""
    return Verifier(policy.init, policy.log_prob, policy.num_parameters)


def gold_verifier(scene: Scene) -> Verifier:
    """The gold reward, as a class of reward models that holds nothing else."""
    return Verifier(lambda key: (), lambda _, prompts, responses: scene.task.reward(prompts, responses), 0)


def _two_stage(scene: Scene) -> dict[str, Outcome]:
    """RL on each reward model, and on the gold reward: one loop, whichever reward it reads."""
    read = {
        SAME: _reward_model(scene, transformer_verifier(scene.program.shape)),
        SIMPLE: _reward_model(scene, FAMILIES[scene.program.family].verifier(scene.task)),
        GOLD: (gold_verifier(scene), (), jnp.array(True)),
    }
    rewards = [partial(verifier.score, params) for verifier, params, _ in read.values()]
    fits = jax.lax.map(partial(_second_stage, scene, rewards), jnp.arange(len(rewards)))
    outcomes = {}
    for number, (arm, (verifier, params, converged)) in enumerate(read.items()):
        fit = jax.tree.map(lambda values, number=number: values[number], fits)
        outcomes[arm] = Outcome(fit.params, accuracy(verifier, params, scene), fit.converged & converged)
    return outcomes


def _reward_model(scene: Scene, verifier: Verifier) -> tuple[Verifier, Params, Bool[Array, ""]]:
    objective = objectives.reward_model(verifier, scene.train, scene.held_out, batch=BATCH)
    fit = _tuned(scene, objective, lambda fit: fit.held_out_loss)
    return verifier, fit.params, fit.converged


def _in_one_type(score):
    """Rewards of networks have the type of their activations, others that of the machine's floats."""
    return lambda prompts, responses: score(prompts, responses).astype(float)


def _second_stage(scene: Scene, rewards: list, which) -> Fit:
    """RLOO on one of the rewards; the learning rate by J under that reward, so that no label is asked for."""

    def reward(prompts, responses):
        return jax.lax.switch(which, [_in_one_type(score) for score in rewards], prompts, responses)

    under = environment(scene.task, reward)
    objective = objectives.rloo(scene.policy, under, prompts=PROMPTS, samples=SAMPLES)
    objective = objective._replace(init=lambda key: scene.start)

    def loss(fit: Fit):
        return -rollouts.evaluate(scene.choosing, scene.policy, fit.params, under, CHOOSING).objective.mean

    return _tuned(scene, objective, loss)
