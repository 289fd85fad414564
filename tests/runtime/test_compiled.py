"""Facts of compiled programs: of a small one whose communication is counted by hand, for a TPU and for a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.collectives import Collective
from gvgap_jax.runtime.compile_cache import kept_for_a_slice
from gvgap_jax.runtime.compiled import PRECISIONS, Facts, bound, facts, is_lower, matrix_peak
from gvgap_jax.runtime.devices import memory_needed
from gvgap_jax.runtime.targets import target

ROWS, WIDTH, HIDDEN = 512, 256, 1024
PLUGINS = {"v5e-4": "libtpu", "h100x4": "jax_cuda12_plugin"}
DEFAULT = {"v5e-4": "bfloat16", "h100x4": "tf32"}  # of a matrix product of float32
BY_FSDP, BY_BOTH, TURNED = (PartitionSpec(*axes) for axes in (("fsdp",), ("fsdp", "tensor"), ("tensor", "fsdp")))


def loss(x, w1, w2):
    return jnp.mean(jnp.square(jnp.tanh(x @ w1) @ w2))


@functools.cache
def compiled(name, precision=None):
    """Two layers with their gradients, split over fsdp 2 x tensor 2, and what was read from them."""
    pytest.importorskip(PLUGINS[name])
    devices = np.array(target(name).devices).reshape(2, 2)
    mesh = Mesh(devices, ("fsdp", "tensor"), axis_types=2 * (AxisType.Auto,))
    specs = {"x": (ROWS, WIDTH, BY_FSDP), "w1": (WIDTH, HIDDEN, BY_BOTH), "w2": (HIDDEN, WIDTH, TURNED)}
    shapes = [
        jax.ShapeDtypeStruct((rows, columns), jnp.float32, sharding=NamedSharding(mesh, spec))
        for rows, columns, spec in specs.values()
    ]
    whole, split = NamedSharding(mesh, PartitionSpec()), tuple(NamedSharding(mesh, each) for each in (BY_BOTH, TURNED))
    with jax.default_matmul_precision(precision):
        lowered = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)), out_shardings=(whole, split)).lower(*shapes)
    with kept_for_a_slice():
        executable = lowered.compile()
    read = facts(lowered, executable, 1.5, mesh)
    assert read.memory == memory_needed(executable)
    return read


def test_communication_of_a_tpu_is_that_counted_by_hand():
    found = {(each.kind, each.axis): (each.bytes, each.times) for each in compiled("v5e-4").collectives}
    half = WIDTH * HIDDEN // 2  # numbers of a weight that a device has after gathering
    assert found == {
        ("all-gather", "fsdp"): (2 * 2 * half / 2, 2),  # both weights as bfloat16: the other device's part of each
        ("all-reduce", "tensor"): (2 * 4 * ROWS / 2 * WIDTH / 2, 1),  # of the output, in a ring of 2
        ("reduce-scatter", "fsdp"): (2 * 4 * half / 2, 1),  # of both gradients
        ("all-reduce", "fsdp"): (4, 1),  # of the loss
    }


def test_weights_are_gathered_as_float32_where_products_need_it():
    (gathered,) = (each for each in compiled("v5e-4", "highest").collectives if each.kind == "all-gather")
    assert gathered.bytes == 2 * 4 * WIDTH * HIDDEN / 2 / 2


def test_communication_of_a_gpu_runs_along_the_same_axes():
    found = {(each.kind, each.axis): each.bytes for each in compiled("h100x4").collectives}
    gathered = found.pop(("all-gather", "fsdp"))
    assert gathered >= 2 * 4 * WIDTH * HIDDEN / 2 / 2
    assert found == {
        ("all-reduce", "tensor"): 4 * ROWS / 2 * WIDTH,
        ("reduce-scatter", "fsdp"): 4 * WIDTH * HIDDEN / 2,
        ("all-reduce", "fsdp"): 4,
    }


@pytest.mark.parametrize("name", PLUGINS)
def test_a_product_at_default_precision_is_seen_as_lower_than_at_highest(name):
    default, highest = compiled(name), compiled(name, "highest")
    assert (default.precision, highest.precision) == (DEFAULT[name], "float32")
    assert is_lower(default.precision, highest.precision)
    assert not is_lower(highest.precision, default.precision)


@pytest.mark.parametrize("name", PLUGINS)
def test_operations_and_bytes_are_at_least_those_of_the_matrices(name):
    read = compiled(name)
    products = 5 * 2 * ROWS * WIDTH * HIDDEN / 4
    assert products < read.flops < 1.01 * products
    arrays = 4 * (ROWS / 2 * WIDTH + 2 * 2 * WIDTH * HIDDEN / 4)  # inputs are read, gradients are written
    most = 1.001 if name == "v5e-4" else 100.0  # its fast memory holds all that is between; a GPU's products are split
    assert arrays <= read.moved < most * arrays
    assert 0 < read.compile_seconds < 600


def test_a_cpu_computes_float32_as_it_is_and_sends_nothing_alone():
    lowered = jax.jit(lambda x: jnp.tanh(x @ x)).lower(jnp.ones((64, 64), jnp.float32))
    read = facts(lowered, lowered.compile(), 0.0)
    assert (read.precision, read.collectives) == ("float32", ())
    assert read.flops == 2 * 64**3 + 64**2
    assert read.moved >= 2 * 4 * 64**2


FACTS = Facts(0.0, 0, 1e12, 1e9, 1.0, (Collective("all-reduce", "fsdp", 1e8, 1.0),), "bfloat16")


@pytest.mark.parametrize(
    ("changes", "limit", "seconds"),
    [
        ({}, "matrix units", 1e12 / 197e12),
        ({"precision": "float32"}, "matrix units", 6e12 / 197e12),
        ({"moved": 1e11}, "memory", 1e11 / 819e9),
        ({"collectives": 3 * (Collective("all-gather", "fsdp", 1e9, 1.0),)}, "links", 3e9 / 200e9),
    ],
)
def test_the_slowest_of_three_bounds_a_call(changes, limit, seconds):
    found, bounded = bound(FACTS._replace(**changes), chip_named("v5e"))
    assert found == limit
    assert bounded == pytest.approx(seconds)


def test_lower_precisions_are_no_slower():
    for chip in (chip_named("H100"), chip_named("v5e")):
        peaks = [matrix_peak(chip, each) for each in PRECISIONS[1:]]
        assert peaks == sorted(peaks)
    assert matrix_peak(chip_named("H100"), "tf32") == 989e12 / 2
