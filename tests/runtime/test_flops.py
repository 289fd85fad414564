"""Floating-point operations, against hand counts, XLA's own and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from gvgap_jax.runtime.flops import flops_of
from gvgap_jax.runtime.operations import Operations, counted, total

X, W = np.linspace(-1, 1, 8 * 16, dtype=np.float32).reshape(8, 16), np.ones((16, 32), np.float32)


def products(x, w):
    return jnp.sum(jnp.tanh(x @ w) * 2.0)


def batched(x, w):
    return jnp.einsum("bi,bij->bj", x, jnp.stack(8 * [w]))


def choices(x, w):
    return jnp.where(x > 0, x, -x) + jnp.maximum(x, 0.5) / jnp.sqrt(x * x + 1)


STRAIGHT = {  # programs without loops, with their operations by hand
    "products": (products, 2 * 8 * 16 * 32 + 8 * 32 + 8 * 32 + (8 * 32 - 1)),
    "batched": (batched, 8 * 2 * 16 * 32),
    "choices": (choices, 8 * 16 * 9),  # compare, negate, select, maximum, times, plus, root, divide, plus
}


@pytest.mark.parametrize("name", STRAIGHT)
def test_programs_without_loops_are_counted_as_by_hand_and_by_xla(name):
    function, by_hand = STRAIGHT[name]
    lowered = jax.jit(function).lower(X, W)
    by_xla = lowered.cost_analysis()
    assert flops_of(lowered) == by_hand == by_xla["flops"] + by_xla.get("transcendentals", 0)
    assert total(jax.make_jaxpr(function)(X, W)) == by_hand


def convolved(x, w):
    return jax.lax.conv_general_dilated(x[None, None], jnp.ones((4, 1, 3, 3), x.dtype), (1, 1), "VALID")


def ordered(x, w):
    return jnp.sort(x, axis=1)


def gathered(x, w):
    return x.at[jnp.array([0, 3, 3])].add(w[:3, :16])


OTHERS = {  # that XLA counts in another way, or not at all
    "convolution": (convolved, 2 * (4 * 6 * 14) * 3 * 3),
    "sort": (ordered, 8 * 16 * 4),
    "additions to rows": (gathered, 3 * 16),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations_are_counted_as_by_hand(name):
    function, by_hand = OTHERS[name]
    assert flops_of(jax.jit(function).lower(X, W)) == by_hand
    assert total(jax.make_jaxpr(function)(X, W)) == by_hand


def test_a_gradient_is_counted_as_by_xla_but_for_a_product_of_constants_that_it_folds():
    lowered = jax.jit(jax.value_and_grad(products, argnums=(0, 1))).lower(X, W)
    by_xla = lowered.cost_analysis()
    assert flops_of(lowered) == by_xla["flops"] + by_xla["transcendentals"] + 8 * 32
    assert flops_of(lowered) > 3 * 2 * 8 * 16 * 32


def nested(x, turns):
    """Tanh of five numbers: one turn, then two, then three, ..."""

    def body(state):
        count, values = state
        return count + 1, jax.lax.fori_loop(0, count + 1, lambda _, each: jnp.tanh(each), values)

    return jax.lax.while_loop(lambda state: state[0] < turns, body, (0, x))[1]


def scanned(x, turns):
    """Ten turns of a product of 5 with 5 x 5 and five sums, and in each a loop of three."""

    def step(state, row):
        state = jax.lax.fori_loop(0, 3, lambda _, each: jnp.sin(each), state)
        return state @ jnp.outer(state, row) + row, state.sum()

    return jax.lax.scan(step, x, jnp.ones((10, 5)))


SCANNED = 10 * (3 * 5 + 5 * 5 + 2 * 5 * 5 + 5 + 4)


def branched(x, turns):
    return jax.lax.cond(turns > 2, lambda x: jnp.tanh(jnp.exp(x)), lambda x: x, x)


def solved(x, turns):
    return jax.scipy.sparse.linalg.cg(lambda v: 2.0 * v, x, tol=0.0, maxiter=turns)[0]


def halved(x, turns):
    """Halve five ones until the largest is at most 2^-turns: five comparisons and a power in each test."""
    return jax.lax.while_loop(lambda x: x.max() > 2.0**-turns, lambda x: x / 2, jnp.ones_like(x))


def called(x, turns):
    return jax.checkpoint(jax.jit(nested))(x, turns)


def test_loops_count_as_they_turn_where_their_length_is_known_and_once_where_not():
    x = jnp.ones(5)
    assert flops_of(jax.jit(scanned).lower(x, 3)) == SCANNED
    assert flops_of(jax.jit(nested).lower(x, 3)) == 5
    assert flops_of(jax.jit(branched).lower(x, 3)) == 5
    assert total(jax.make_jaxpr(scanned)(x, 3)) == SCANNED
    assert total(jax.make_jaxpr(nested)(x, 3)) == 5
    assert total(jax.make_jaxpr(branched)(x, 3)) == 10


PROGRAMS = {  # operations by hand at so many turns
    "nested": (nested, lambda turns: 5 * turns * (turns + 1) // 2),
    "scanned": (scanned, lambda turns: SCANNED),
    "branched": (branched, lambda turns: 10 if turns > 2 else 0),
    "halved": (halved, lambda turns: 6 + turns * (5 + 6)),
    "called": (called, lambda turns: 5 * turns * (turns + 1) // 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("turns", [0, 2, 4])
def test_a_program_counts_its_own_operations(name, turns):
    function, by_hand = PROGRAMS[name]
    x = jnp.linspace(0, 1, 5)
    results, operations = jax.jit(counted(function))(x, turns)
    assert operations.number() == by_hand(turns)
    assert jax.tree.all(jax.tree.map(np.array_equal, results, jax.jit(function)(x, turns)))


@pytest.mark.parametrize("over", ["vmap", "map"])
def test_rows_count_their_own_turns(over):
    rows = {"x": jnp.ones((3, 5)), "turns": jnp.array([0, 2, 4])}
    mapped = {"vmap": jax.vmap, "map": lambda run: partial(jax.lax.map, run)}[over]
    _, operations = jax.jit(mapped(counted(lambda row: nested(**row))))(rows)
    assert operations.number().tolist() == [0, 15, 50]


def test_the_solver_of_a_linear_system_counts_its_turns():
    x = jnp.linspace(0, 1, 5)
    results, one = jax.jit(counted(solved))(x, 1)
    _, none = jax.jit(counted(solved))(x, 0)
    assert np.array_equal(results, jax.jit(solved)(x, 1))
    assert total(jax.make_jaxpr(solved)(x, 1)) == flops_of(jax.jit(solved).lower(x, 1))
    assert one.number() > none.number() + 2 * 5


def test_a_count_is_exact_where_float32_is_not():
    def many(x, turns):
        return jax.lax.fori_loop(0, turns, lambda _, each: jnp.tanh(each), x)

    x = jnp.ones((1001, 1000))
    _, operations = jax.jit(counted(many))(x, jnp.int32(1073))
    assert operations.number() == 1001 * 1000 * 1073
    assert operations.high.dtype == jnp.int32
    assert operations.high > 0
    assert Operations(jnp.int32(2), jnp.int32(5)).number() == 2**31 + 5


def test_each_device_counts_its_own_part():
    devices = np.array(jax.devices("cpu"))
    mesh = Mesh(devices, ("batch",), axis_types=(AxisType.Auto,))
    rows, spec = 4 * len(devices), PartitionSpec("batch")
    split = jax.shard_map(jnp.tanh, mesh=mesh, in_specs=spec, out_specs=spec)
    assert flops_of(jax.jit(lambda x: split(x) + x).lower(jnp.ones((rows, 3)))) == 2 * 4 * 3
