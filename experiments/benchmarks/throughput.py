"""Fits per second of the sweep's programs against the rows of a chunk, on the devices that this process has.

Three floors are measured beside it: calls that compute nothing, the slowest fit alone once a call, and the
processor time that the fits cost spread over all devices. The highest floor is the limit that the chunks stand against.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from experiments.benchmarks.leaf_pass import seconds_of
from experiments.benchmarks.solvers import fastest
from experiments.questions import sample_complexity
from gvgap_jax.runtime.devices import over_devices, rows_over_devices
from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.at_once import alone, place
from gvgap_jax.sweep.cells import Batch, batches
from gvgap_jax.sweep.compute import Result, compute
from gvgap_jax.sweep.plan import chunks


class Throughput(NamedTuple):
    """The same fits in chunks of one size.

    Attributes:
      devices: that share every chunk; ``rows`` of a chunk, and ``calls`` of the program for all ``fits``.
      compile_seconds: of the program.
      seconds: of all fits, with making their records and without storing them; the other seconds are the floors.
      bytes: of the program on each device, by the compiler's own measure.
      peak_bytes: largest resident set of the process so far; chunk sizes ascend.
    """

    arm: str
    device: str
    devices: int
    rows: int
    fits: int
    calls: int
    compile_seconds: float
    seconds: float
    empty_calls: float
    slowest_fits: float
    processors: float
    bytes: int
    peak_bytes: int

    @property
    def fits_per_second(self) -> float:
        """Of all devices together."""
        return self.fits / self.seconds

    @property
    def limit(self) -> str:
        """Name of the highest floor."""
        return max(self._floors, key=self._floors.__getitem__)

    @property
    def share(self) -> float:
        """Highest floor over the seconds: 1 is as fast as the limit allows."""
        return max(self._floors.values()) / self.seconds

    @property
    def _floors(self) -> dict[str, float]:
        return {"call overhead": self.empty_calls, "slowest fit": self.slowest_fits, "processors": self.processors}


def measure(arm: str, horizon: int, order: int, pairs: tuple[int, ...], rows: tuple[int, ...]) -> list[Throughput]:
    """Fit ``max(rows)`` data sets of ``sample_complexity`` (V = 3) in chunks of each size, smallest first."""
    batch = fits_of(arm, horizon, order, pairs, max(rows))
    alone = [fit for _ in range(2) for fit in computed(batch, 1, len(pairs))][-len(pairs) :]
    slowest = max(fit.seconds for fit in alone)
    return [_measure(batch, slowest, each) for each in sorted(rows)]


def fits_of(arm: str, horizon: int, order: int, pairs: tuple[int, ...], most: int) -> Batch:
    """The first ``most`` rows of an arm, its verifier and the gold reward of one order."""
    grid = Grid({"horizon": (horizon,), "pairs": pairs}, seeds=-(-most // len(pairs)))
    found = batches(sample_complexity.Config, sample_complexity.cells, grid)
    (batch,) = (batch for batch in found if batch.labels["arm"] == arm)
    own = horizon if arm == "DPO" else order
    index = np.flatnonzero((batch.columns["gold_order"] == order) & (batch.columns["order"] == own))[:most]
    return batch._replace(
        numbers={name: values[index] for name, values in batch.columns.items()},
        seeds=range(1),
        points=batch.points[index % len(batch.points)],
    )


def computed(batch: Batch, rows: int, most: int | None = None) -> list[Result]:
    """The first ``most`` chunks of so many rows."""
    cut = chunks(batch, "sample_complexity", sample_complexity.MEANING, rows)
    return [compute(alone(sample_complexity.run, chunk), [chunk], place())[0] for chunk in cut[:most]]


def empty_call(rows: int) -> float:
    """Seconds of a call that computes nothing, waited for as the sweep waits for every chunk."""
    program = over_devices(jnp.negative)
    return seconds_of(
        lambda values: jax.block_until_ready(program(values)), np.ones(rows_over_devices(rows), np.float32)
    )


def _measure(batch: Batch, slowest_fit: float, rows: int) -> Throughput:
    (first,) = computed(batch, rows, 1)
    results, seconds, cpu_seconds = fastest(lambda: computed(batch, rows))
    on_cpu = jax.default_backend() == "cpu"
    return Throughput(
        arm=str(batch.labels["arm"]),
        device=jax.local_devices()[0].device_kind,
        devices=jax.local_device_count(),
        rows=rows,
        fits=batch.size,
        calls=len(results),
        compile_seconds=first.made_by["compile_seconds"],
        seconds=seconds,
        empty_calls=len(results) * empty_call(rows),
        slowest_fits=len(results) * slowest_fit,
        processors=cpu_seconds / jax.local_device_count() if on_cpu else 0.0,
        bytes=first.made_by["bytes"],
        peak_bytes=peak_bytes(),
    )


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
