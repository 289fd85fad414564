"""Programs that count their own floating-point operations, so that loops of unknown length count as they turn.

A fit stops when it has converged: how many steps that takes is known only by running it. ``counted`` makes of a program
one that also returns what it has computed, by the rules of ``flops``, from the jaxpr: run on a CPU for a few rows, it
says what a fit truly costs on any device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gvgap_jax.runtime.devices import over_devices, rows_over_devices

NAMES = (
    "abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp convert_element_type "
    "cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul ne neg pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square sub tan "
    "tanh"
)
ELEMENTWISE = frozenset(NAMES.split())
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"}
RUNNING = {"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "reduce_window", "reduce_window_sum"}
ACCUMULATED = {"scatter-add", "scatter-mul", "scatter-min", "scatter-max", "scatter_add", "scatter_mul"}
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # under which an equation has the one program that it calls
LOW = 30  # bits of the lower half of a count


class Operations(NamedTuple):
    """A count, exact up to 2^60, of any shape: two int32, because JAX has no wider integers by default."""

    high: jax.Array
    low: jax.Array

    def number(self) -> np.ndarray:
        """The count as float64, of the same shape."""
        return np.asarray(self.high, np.float64) * 2**LOW + np.asarray(self.low, np.float64)


def counted(function: Callable) -> Callable:
    """A function that returns what ``function`` does, and the ``Operations`` that this took.

    It can be jitted, vmapped and mapped: under ``vmap`` every row counts its own turns of a loop. Loops that a program
    maps inside of itself turn until the last of their rows is done. The condition of a loop is counted once more than
    its body, and only where it has no loops in it.
    """

    def run(*arguments):
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        none = Operations(jnp.int32(0), jnp.int32(0))
        results, operations = _evaluate(program, jax.tree.leaves(arguments), none)
        return jax.tree.unflatten(jax.tree.structure(shape), results), operations

    return run


def of_rows(run: Callable, rows: Any) -> np.ndarray:
    """Operations of every row [N] of ``run``, which this machine's processor runs for all of them."""
    processors = jax.local_devices(backend="cpu")
    size = len(jax.tree.leaves(rows)[0])
    index = np.minimum(np.arange(rows_over_devices(size, processors)), size - 1)
    _, operations = over_devices(counted(run), devices=processors)(
        jax.tree.map(lambda leaf: np.asarray(leaf)[index], rows)
    )
    return operations.number()[:size]


def _more(operations: Operations, number: int) -> Operations:
    low = operations.low + number % 2**LOW
    return Operations(operations.high + number // 2**LOW + (low >> LOW), low & (2**LOW - 1))


def _evaluate(program: Any, arguments: Sequence, operations: Operations) -> tuple[list, Operations]:
    """Evaluate a closed jaxpr equation by equation, entering those that contain loops of unknown length."""
    values = dict(zip(program.jaxpr.invars, arguments, strict=True))
    values |= dict(zip(program.jaxpr.constvars, program.consts, strict=True))

    def read(each):
        return each.val if isinstance(each, core.Literal) else values[each]

    for equation in program.jaxpr.eqns:
        inputs = [read(each) for each in equation.invars]
        if _depends(equation):
            enter = ENTERED.get(equation.primitive.name, _call)
            outputs, operations = enter(equation, inputs, operations)
        else:
            with equation.ctx.manager:
                parameters = equation.primitive.get_bind_params(equation.params)
                outputs = equation.primitive.bind(*inputs, **parameters)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
            operations = _more(operations, cost(equation))
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(each) for each in program.jaxpr.outvars], operations


def _while(equation: Any, inputs: list, operations: Operations) -> tuple[list, Operations]:
    condition, body = equation.params["cond_jaxpr"], equation.params["body_jaxpr"]
    carried = len(body.jaxpr.outvars)
    first, last = len(condition.jaxpr.invars) - carried, len(inputs) - carried
    of_condition, of_body, carry = inputs[:first], inputs[first:last], inputs[last:]
    tested = total(condition)

    def turns(state):
        return core.jaxpr_as_fun(condition)(*of_condition, *state[1])[0]

    def turn(state):
        values, counted = _evaluate(body, [*of_body, *state[1]], state[0])
        return _more(counted, tested), values

    operations, outputs = jax.lax.while_loop(turns, turn, (_more(operations, tested), carry))
    return outputs, operations


def _scan(equation: Any, inputs: list, operations: Operations) -> tuple[list, Operations]:
    body = equation.params["jaxpr"]

    def whole(outer: Sequence, inner: Sequence) -> int:
        """How many are no rows, which have an axis less inside."""
        return sum(len(one.aval.shape) == len(other.aval.shape) for one, other in zip(outer, inner, strict=True))

    carried = whole(equation.outvars, body.jaxpr.outvars)
    last = whole(equation.invars, body.jaxpr.invars)
    constants, carry, rows = inputs[: last - carried], inputs[last - carried : last], inputs[last:]

    def step(state, row):
        values, counted = _evaluate(body, [*constants, *state[1], *row], state[0])
        return (counted, values[:carried]), values[carried:]

    options = {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    (operations, carry), rows = jax.lax.scan(step, (operations, carry), rows, **options)
    return [*carry, *rows], operations


def _branches(equation: Any, inputs: list, operations: Operations) -> tuple[list, Operations]:
    branches = [partial(_evaluate, branch) for branch in equation.params["branches"]]
    return jax.lax.switch(inputs[0], branches, inputs[1:], operations)


def _call(equation: Any, inputs: list, operations: Operations) -> tuple[list, Operations]:
    (called,) = (_closed(equation.params[name]) for name in CALLS if name in equation.params)
    return _evaluate(called, inputs, operations)


def _solve(equation: Any, inputs: list, operations: Operations) -> tuple[list, Operations]:
    """A linear system: of its programs only the one that solves it is run."""
    lengths = equation.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    constants, right = inputs[first : first + lengths.solve], inputs[sum(lengths) :]
    return _evaluate(_closed(equation.params["jaxprs"].solve), [*constants, *right], operations)


ENTERED = {"while": _while, "scan": _scan, "cond": _branches, "custom_linear_solve": _solve}


def _closed(program: Any) -> Any:
    return program if hasattr(program, "consts") else core.ClosedJaxpr(program, ())


def _inside(equation: Any) -> Iterator[Any]:
    """The programs that an equation runs."""
    if equation.primitive.name == "custom_linear_solve":
        return iter([_closed(equation.params["jaxprs"].solve)])
    parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda each: hasattr(each, "eqns"))
    return (_closed(each) for each in parameters if hasattr(each, "eqns"))


def _depends(equation: Any) -> bool:
    """Whether the operations of an equation depend on data: it is or has a loop of unknown length, or a branch."""
    inside = (each for program in _inside(equation) for each in program.jaxpr.eqns)
    return equation.primitive.name in {"while", "cond"} or any(map(_depends, inside))


def total(program: Any) -> int:
    """Operations of a closed jaxpr; a loop of unknown length as one turn, a branch as the largest of its kind."""
    return sum(map(cost, program.jaxpr.eqns))


def cost(equation: Any) -> int:
    """Operations of an equation."""
    name, parameters = equation.primitive.name, equation.params
    programs = [total(each) for each in _inside(equation)]
    if name == "scan":
        return parameters["length"] * sum(programs)
    if name == "cond":
        return max(programs)
    if programs and name not in ACCUMULATED:
        return sum(programs)
    arrays = [each.aval for each in equation.invars if hasattr(each.aval, "shape")]
    if not any(jnp.issubdtype(array.dtype, jnp.floating) for array in arrays):
        return 0
    if name == "convert_element_type" and arrays[0].dtype == equation.outvars[0].aval.dtype:
        return 0
    size = math.prod(equation.outvars[0].aval.shape)
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return 2 * size * math.prod(arrays[0].shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        features = arrays[1].shape[parameters["dimension_numbers"].rhs_spec[0]]
        return 2 * size * math.prod(arrays[1].shape) // features
    if name == "sort":
        return size * math.ceil(math.log2(max(1, arrays[0].shape[parameters["dimension"]])))
    if name in REDUCTIONS:
        return math.prod(arrays[0].shape) - size
    if name in ACCUMULATED:
        return math.prod(arrays[-1].shape)
    if name in {"cholesky", "triangular_solve"}:
        return size * arrays[0].shape[-1] // (3 if name == "cholesky" else 1)
    return size if name in ELEMENTWISE or name in RUNNING else 0
