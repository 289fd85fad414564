"""The leaf pass, policy levels to leaf log-probabilities, and its gradient, against what the machine can do at best.

The gradient is that of J = E r - beta KL through the leaf pass. Three floors are measured beside each: an empty
compiled call, a copy of as many bytes, and one log-softmax of all prefixes at once. The highest floor is the
limit that the program stands against.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax import TokenTree, soft_rl

LEAST_SECONDS = 0.02  # of one measurement
MEASUREMENTS = 5


class LeafRow(NamedTuple):
    """One program on one tree and device.

    Attributes:
      program: the leaf pass or the gradient.
      bytes: the least that must move. The pass reads logits and writes leaf log-probabilities; the gradient
        reads logits, rewards and the reference, and writes as many numbers as there are logits.
      seconds: of one call; ``call``, ``copy`` and ``log_softmax`` are the seconds of the floors.
    """

    program: str
    device: str
    leaves: int
    bytes: int
    seconds: float
    call: float
    copy: float
    log_softmax: float

    @property
    def limit(self) -> str:
        """Name of the highest floor."""
        floors = {"call overhead": self.call, "memory copy": self.copy, "log-softmax": self.log_softmax}
        return max(floors, key=floors.__getitem__)

    @property
    def share(self) -> float:
        """Highest floor over the seconds: 1 is as fast as the limit allows."""
        return max(self.call, self.copy, self.log_softmax) / self.seconds


class Pass(NamedTuple):
    """The leaf pass or the gradient through it: a function of ``inputs``, and the least bytes that must move."""

    function: Callable
    inputs: Any
    bytes: int


def passes(tree: TokenTree) -> dict[str, Pass]:
    """Both, by name, with random numbers as inputs."""

    def objective(levels, reward, reference):
        return jnp.sum(soft_rl.objective(tree.leaf_log_probs(levels), reward, reference, 1.0))

    numbers = np.random.default_rng(0)
    levels = tuple(_normal(numbers, *shape) for shape in tree.level_shapes)
    reward, reference = _normal(numbers, 1, tree.leaves), tree.leaf_log_probs(levels)
    once = reward.dtype.itemsize * (sum(level.size for level in levels) + tree.leaves)
    return {
        "leaf pass": Pass(tree.leaf_log_probs, levels, once),
        "gradient": Pass(lambda inputs: jax.grad(objective)(*inputs), (levels, reward, reference), 2 * once),
    }


def measure(tree: TokenTree) -> list[LeafRow]:
    """Time the leaf pass of a tree and the gradient through it, and their floors, on the first device."""
    numbers = np.random.default_rng(0)
    logits = sum(math.prod(shape) for shape in tree.level_shapes)
    softmax = seconds_of(jax.jit(jax.nn.log_softmax), _normal(numbers, logits // tree.vocabulary, tree.vocabulary))
    call, itemsize = empty_call(), jnp.zeros(()).dtype.itemsize
    return [
        LeafRow(
            program=name,
            device=jax.local_devices()[0].device_kind,
            leaves=tree.leaves,
            bytes=each.bytes,
            seconds=seconds_of(jax.jit(each.function), each.inputs),
            call=call,
            copy=seconds_of(jax.jit(jnp.negative), _normal(numbers, each.bytes // itemsize // 2)),
            log_softmax=softmax,
        )
        for name, each in passes(tree).items()
    ]


def empty_call() -> float:
    """Seconds of a compiled call that computes next to nothing."""
    return seconds_of(jax.jit(jnp.negative), jnp.zeros(1))


def seconds_of(program: Callable, argument) -> float:
    """Seconds of one call after compilation: the fastest counts."""
    return min(times_of(program, argument))


def times_of(program: Callable, argument, measurements: int = MEASUREMENTS) -> list[float]:
    """Seconds of one call after compilation, measured several times."""
    jax.block_until_ready(program(argument))
    calls, found = 1, []
    for _ in range(measurements):
        spent = _spent(program, argument, calls)
        while spent < LEAST_SECONDS:
            calls = max(2 * calls, int(calls * LEAST_SECONDS / max(spent, 1e-9)))
            spent = _spent(program, argument, calls)
        found.append(spent / calls)
    return found


def _normal(numbers: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(numbers.normal(size=shape), float)


def _spent(program: Callable, argument, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        result = program(argument)
    jax.block_until_ready(result)
    return time.perf_counter() - started
