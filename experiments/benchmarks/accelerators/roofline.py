"""What fits must at least compute and move, however many turns each takes, and in what time a device could do that."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks.accelerators import speeds
from gvgap_jax.runtime.compiled import facts
from gvgap_jax.runtime.operations import of_rows as operations_of_rows


class Roofline(NamedTuple):
    """Of one call of a program of many rows.

    Attributes:
      floors: seconds by arithmetic and by memory, on all devices together.
      peaks: where the speeds behind them are from.
      precision: the lowest of a matrix product.
      operations: of a row, in the mean.
    """

    floors: dict[str, float]
    peaks: str
    precision: str
    operations: float


def of_rows(run: Callable[[Any], Any], sample: Any, rows: int, lowered: jax.stages.Lowered, compiled: Any) -> Roofline:
    """``run`` mapped over so many rows, by what a few of them compute on the processor.

    A loop of unknown length moves in every turn what the compiled program moves in one.
    """
    found, each = facts(lowered, compiled, 0.0), operations(run, sample)
    turns = rows * each / (found.flops * jax.local_device_count())
    products, memory = speeds.of_products("float32"), speeds.of_memory()
    floors = {"matrix units": products.seconds(rows * each), "memory": found.moved * turns / memory.value}
    return Roofline(floors, products.source, found.precision, each)


def operations(run: Callable[[Any], Any], sample: Any) -> float:
    """Floating-point operations of a row in the mean, counted while the processor computes the rows of the sample."""
    return float(np.mean(operations_of_rows(run, sample)))
