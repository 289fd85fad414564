"""The leaf pass, policy levels to leaf log-probabilities, against what the machine can do at best.

Three floors are measured beside it: an empty compiled call, a copy of as many bytes, and one log-softmax
of all prefixes at once. The highest floor is the limit that the pass stands against.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax import TokenTree

LEAST_SECONDS = 0.02  # of one measurement
MEASUREMENTS = 5  # the fastest counts


class LeafRow(NamedTuple):
    """One tree on one device.

    Attributes:
      bytes: logits read and leaf log-probabilities written, the least that must move.
      seconds: of one pass; ``call``, ``copy`` and ``log_softmax`` are the seconds of the floors.
    """

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
        """Highest floor over the time of the pass: 1 is as fast as the limit allows."""
        return max(self.call, self.copy, self.log_softmax) / self.seconds


def measure(tree: TokenTree) -> LeafRow:
    """Time the leaf pass of a tree, and its floors, on the first device."""
    device = jax.local_devices()[0]
    numbers = np.random.default_rng(0)
    levels = tuple(jnp.asarray(numbers.normal(size=shape), float) for shape in tree.level_shapes)
    prefixes = sum(level.shape[1] for level in levels)
    logits = jnp.asarray(numbers.normal(size=(prefixes, tree.vocabulary)), float)
    half = jnp.asarray(numbers.normal(size=(logits.size + tree.leaves) // 2), float)
    return LeafRow(
        device=device.device_kind,
        leaves=tree.leaves,
        bytes=logits.dtype.itemsize * (logits.size + tree.leaves),
        seconds=seconds_of(jax.jit(tree.leaf_log_probs), levels),
        call=seconds_of(jax.jit(jnp.negative), half[:1]),
        copy=seconds_of(jax.jit(jnp.negative), half),
        log_softmax=seconds_of(jax.jit(jax.nn.log_softmax), logits),
    )


def seconds_of(program: Callable, argument) -> float:
    """Seconds of one call after compilation."""
    jax.block_until_ready(program(argument))
    calls, best = 1, float("inf")
    for _ in range(MEASUREMENTS):
        spent = _spent(program, argument, calls)
        while spent < LEAST_SECONDS:
            calls = max(2 * calls, int(calls * LEAST_SECONDS / max(spent, 1e-9)))
            spent = _spent(program, argument, calls)
        best = min(best, spent / calls)
    return best


def _spent(program: Callable, argument, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        result = program(argument)
    jax.block_until_ready(result)
    return time.perf_counter() - started
