"""What both sides of the transformer benchmark are given, and our side of it as calls that can be timed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.solvers import compiled
from gvgap_jax.lm.model import classes, decode
from gvgap_jax.lm.model.decode import Decoding
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.training import loop, objectives
from gvgap_jax.training.loop import Training
from gvgap_jax.training.objectives import Objective
from gvgap_jax.types import Demonstrations, Params, Preferences

Load = Literal["SFT", "reward model", "DPO"]
LOADS: tuple[Load, ...] = ("SFT", "reward model", "DPO")

BETA, LEARNING_RATE, CLIP = 0.1, 1e-3, 1.0
DRAWN = 8  # batches that the data hold
OURS, EAGER, COMPILED = "gvgap_jax", "PyTorch, eager", "PyTorch, torch.compile"
TRL, GENERATE = "TRL", "transformers, generate"


@dataclass(frozen=True)
class Size:
    """A model and its batches.

    Attributes:
      shape: of the policy and the reward model, without a start token, which the peers have not.
      prompt_length, horizon: P and H; every prompt and response has its full length.
      batch: demonstrations, pairs or responses at a time.
      steps: gradient steps between two looks at the clock.
    """

    shape: Shape
    prompt_length: int
    horizon: int
    batch: int
    steps: int

    @property
    def name(self) -> str:
        """For people."""
        shape = self.shape
        return f"{shape.layers} layers of {shape.width}, V {shape.vocabulary}, {self.length} tokens x {self.batch}"

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.prompt_length + self.horizon

    def sequences(self, load: Load) -> int:
        """Sequences of a batch."""
        return self.batch if load == "SFT" else 2 * self.batch


class Given(NamedTuple):
    """First parameters of policy and reward model, a policy as the reference, and pairs to train on."""

    policy: Params
    verifier: Params
    reference: Params
    pairs: Preferences


class Side(NamedTuple):
    """One who takes part.

    Attributes:
      run: does the timed work once and waits for it; returns its losses, or its responses.
      compile_seconds: spent before the first call.
      settle: prepares what is timed after the first call.
    """

    name: str
    run: Callable[[], np.ndarray]
    compile_seconds: float = 0.0
    settle: Callable[[], None] = lambda: None


@partial(jax.jit, static_argnums=0)
def given(size: Size) -> Given:
    """Random parameters, heads included, and pairs of random tokens with the reference's margins."""
    keys = jax.random.split(jax.random.key(0), 6)
    policy, verifier = classes.transformer_policy(size.shape, size.horizon), classes.transformer_verifier(size.shape)
    first, scores, reference = (
        _with_head(init, key) for init, key in zip((policy.init, verifier.init, policy.init), keys[:3], strict=True)
    )
    rows = DRAWN * size.batch

    def tokens(key, length: int):
        return jax.random.randint(key, (rows, length), 0, size.shape.vocabulary)

    pairs = Preferences(
        tokens(keys[3], size.prompt_length),
        tokens(keys[4], size.horizon),
        tokens(keys[5], size.horizon),
        reference_margin=jnp.zeros(rows),
        weight=jnp.ones(rows),
    )
    return Given(first, scores, reference, objectives.with_reference(pairs, policy, reference, size.batch))


def _with_head(init: Callable, key) -> Params:
    """First parameters whose head is random too: a head of zeros would hide the rest."""
    params = init(key)
    head = params["head"]
    return params | {"head": jax.random.normal(key, head.shape, head.dtype) / np.sqrt(head.shape[0])}


def objective(load: Load, size: Size, given: Given) -> Objective:
    """What the trainer minimises, from the given parameters."""
    policy, pairs = classes.transformer_policy(size.shape, size.horizon), given.pairs
    if load == "reward model":
        made = objectives.reward_model(classes.transformer_verifier(size.shape), pairs, batch=size.batch)
        return made._replace(init=lambda _: given.verifier)
    if load == "SFT":
        made = objectives.sft(policy, Demonstrations(pairs.prompts, pairs.chosen, pairs.weight), batch=size.batch)
    else:
        made = objectives.dpo(policy, pairs, batch=size.batch, beta=BETA)
    return made._replace(init=lambda _: given.policy)


def training(size: Size) -> Training:
    """AdamW at a constant rate, clipped, without decay."""
    return Training(size.steps, schedule="constant", clip=CLIP, evaluate_every=size.steps, steps_a_dispatch=size.steps)


def batches(load: Load, size: Size, given: Given) -> list[Any]:
    """The batches that our trainer draws, in its order, of the first call, as numpy arrays."""
    made = objective(load, size, given)
    key = _start(load, size, given).key
    draw = jax.jit(lambda round: made.draw(key, None, round))
    return [jax.device_get(draw(round)) for round in range(size.steps)]


def trainer(load: Load, size: Size, given: Given) -> Side:
    """Our trainer: ``size.steps`` steps a call, going on from where it is."""

    def advance(given: Given, state: loop.State):
        return loop.advance(objective(load, size, given), training(size), 1, LEARNING_RATE, state)

    state = _start(load, size, given)
    program, compile_seconds = compiled(jax.jit(advance, donate_argnums=1), given, state)

    def run() -> np.ndarray:
        nonlocal state
        state, curves = program(given, state)
        return np.asarray(curves["loss"])

    return Side(OURS, run, compile_seconds)


def _start(load: Load, size: Size, given: Given) -> loop.State:
    return jax.jit(lambda given: loop.start(objective(load, size, given), training(size), jax.random.key(0)))(given)


def decoder(size: Size, given: Given, greedy: bool = False) -> Side:
    """Our decoder: a response to every prompt of a batch, drawn at temperature 1."""
    decoding = Decoding(temperature=0.0 if greedy else 1.0)
    sample = partial(decode.sample, shape=size.shape, horizon=size.horizon, decoding=decoding)
    prompts = given.pairs.prompts[: size.batch]
    program, compile_seconds = compiled(
        jax.jit(lambda key, params, prompts: sample(key, params=params, prompts=prompts)),
        jax.random.key(0),
        given.policy,
        prompts,
    )
    keys = iter(jax.random.split(jax.random.key(1), 10_000))
    return Side(OURS, lambda: np.asarray(program(next(keys), given.policy, prompts).responses), compile_seconds)
