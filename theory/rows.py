"""One row of the report: a claim and its worst residual, or a negative control and its smallest."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

IDENTITY = 1e-9  # residual allowed where the two sides are equal, in nats or units of reward


class Row(NamedTuple):
    """The result of one check.

    Attributes:
      statement: the claim, in words.
      premises: what was assumed; of a negative control, the premise that was dropped.
      instances: random instances looked at.
      residual: the largest distance between the two sides; of a negative control, the smallest.
      bound: the tolerance; of a negative control, the margin that the residual must exceed.
      control: a premise was dropped.
      holds: the claim holds, or the negative control breaks as it must.
    """

    statement: str
    premises: str
    instances: int
    residual: float
    bound: float
    control: bool
    holds: bool


def claim(statement: str, premises: str, residuals, tolerance: float = IDENTITY) -> Row:
    """Row of a claim with one residual per instance; it holds where none exceeds the tolerance, and NaN does."""
    worst = float(np.max(residuals))
    return Row(statement, premises, np.size(residuals), worst, tolerance, False, worst <= tolerance)


def negative_control(statement: str, dropped: str, residuals, margin: float) -> Row:
    """Row of a negative control with one residual per instance; it breaks where all exceed the margin, NaN does not."""
    smallest = float(np.min(residuals))
    return Row(statement, dropped, np.size(residuals), smallest, margin, True, smallest > margin)


def apart(left, right) -> np.ndarray:
    """Largest absolute difference between the two sides of each instance, [instances]."""
    left, right = np.asarray(left, float), np.asarray(right, float)
    return np.abs(left - right).reshape(len(left), -1).max(axis=1)


def over_instances(sides: Callable) -> Callable:
    """``sides`` of one instance, compiled for a batch of them."""
    return jax.jit(jax.vmap(sides), compiler_options={"xla_backend_optimization_level": 0})
