"""How fast a device computes and moves at best: what its maker publishes, and what it does here."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.accelerators.stored import Measured
from experiments.benchmarks.leaf_pass import times_of
from experiments.benchmarks.solvers import compiled
from gvgap_jax.runtime.chips import chip_of

PRODUCT = {"cpu": 512}  # rows of the square matrix of a large product; elsewhere
LARGE_PRODUCT = 8192
COPY = {"cpu": 2**24}  # numbers of a large copy; elsewhere
LARGE_COPY = 2**27


class Speed(NamedTuple):
    """Operations or bytes a second of one device, and where the number is from."""

    value: float
    source: str

    def seconds(self, amount: float) -> float:
        """That so many operations or bytes take at best, on all local devices together."""
        return amount / (self.value * jax.local_device_count())


@functools.cache
def of_products(dtype: str) -> Speed:
    """Of matrix products: published, or measured where the device is not known. float32 means full precision."""
    known = _published()
    if known:
        return Speed(known.flops_bfloat16 if dtype == "bfloat16" else known.flops_float32, "published")
    side = PRODUCT.get(jax.default_backend(), LARGE_PRODUCT)
    found = product(dtype, side)
    return Speed(2 * side**3 / min(found.seconds), "measured")


@functools.cache
def of_memory() -> Speed:
    """Of a device's memory: published, or measured where the device is not known."""
    known = _published()
    if known:
        return Speed(known.bandwidth_bytes_per_s, "published")
    numbers = COPY.get(jax.default_backend(), LARGE_COPY)
    return Speed(_copied(numbers) / min(copy(numbers).seconds), "measured")


def product(dtype: str, side: int) -> Measured:
    """A large matrix product on one device, float32 in full precision, against the published peak if there is one."""
    square = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), dtype)
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        call, compile_seconds = compiled(jax.jit(lambda square: square @ square), square)
    known, operations = _published(), 2 * side**3
    peak = known and (known.flops_bfloat16 if dtype == "bfloat16" else known.flops_float32)
    return Measured(
        unit="TFLOP",
        amount=operations / 1e12,
        seconds=times_of(call, square),
        compile_seconds=compile_seconds,
        floors={"matrix units": operations / peak} if peak else {},
        peaks="published" if peak else "",
        how=f"{side:,} squared, one device" + (", in full precision" if dtype == "float32" else ""),
    )


def copy(numbers: int) -> Measured:
    """A large copy on one device, read and written, against the published bandwidth if there is one."""
    values = jnp.zeros(numbers, jnp.float32)
    call, compile_seconds = compiled(jax.jit(jnp.negative), values)
    known = _published()
    return Measured(
        unit="GB",
        amount=_copied(numbers) / 1e9,
        seconds=times_of(call, values),
        compile_seconds=compile_seconds,
        floors={"memory": _copied(numbers) / known.bandwidth_bytes_per_s} if known else {},
        peaks="published" if known else "",
        how=f"{values.nbytes / 1e6:,.0f} MB read and written, one device",
    )


def _published():
    device = jax.local_devices()[0]
    return None if device.platform == "cpu" else chip_of(device.device_kind)


def _copied(numbers: int) -> int:
    return 2 * 4 * numbers
