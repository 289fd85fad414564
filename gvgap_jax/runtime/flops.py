"""Floating-point operations of a program before it is compiled: the same number whatever device it is compiled for.

Counted from StableHLO. A matrix product of M x K with K x N is 2 M N K; an elementwise operation is one for each
element, and so are comparisons and choices between numbers; a reduction is one for each element that it takes up, a
running sum one for each element. A loop counts as often as it turns where a counter below a constant ends it, and
once where its length is not known; a conditional counts as the mean of its branches. Integers, and routines of a
library (custom calls), count as nothing.
"""

import math
import re
from typing import Any

import jax

NAMES = (
    "abs add atan2 cbrt ceil clamp compare convert cosine divide exponential exponential_minus_one floor is_finite log "
    "log_plus_one logistic maximum minimum multiply negate power reduce_precision remainder round_nearest_afz "
    "round_nearest_even rsqrt select sign sine sqrt subtract tan tanh"
)
ELEMENTWISE = frozenset(NAMES.split())
FLOATS = re.compile(r"^(f|bf)\d")


def flops_of(lowered: jax.stages.Lowered) -> float:
    """Operations of one device in a call: what is outside of a ``shard_map`` is split evenly over all of them."""
    program: Any = lowered.compiler_ir("stablehlo")
    module = program.operation
    return _Count(module).of_function("main") / int(module.attributes["mhlo.num_partitions"].value)


class _Count:
    """Walks a module; every function is counted once."""

    def __init__(self, module: Any):
        operations = list(module.regions[0].blocks[0].operations)
        self.functions = {_text(each, "sym_name"): each for each in operations if each.operation.name == "func.func"}
        self.meshes = {_text(each, "sym_name"): str(each) for each in operations if each.operation.name == "sdy.mesh"}
        self.counted: dict[str, float] = {}

    def of_function(self, name: str) -> float:
        if name not in self.counted:
            self.counted[name] = self.of_region(self.functions[name].regions[0])
        return self.counted[name]

    def of_region(self, region: Any) -> float:
        return sum(self.of(each.operation) for block in region.blocks for each in block.operations)

    def of(self, operation: Any) -> float:
        dialect, _, name = operation.name.partition(".")
        if name in {"call", "composite"}:
            return self.of_function(_text(operation, "callee" if name == "call" else "decomposition"))
        if dialect == "sdy" and name == "manual_computation":
            return self.of_region(operation.regions[0]) * self._devices(operation)
        if name == "while":
            condition, body = operation.regions
            turns = _turns(operation)
            return (1 if turns is None else turns) * (self.of_region(condition) + self.of_region(body))
        if name in {"case", "if"}:
            return sum(map(self.of_region, operation.regions)) / len(operation.regions)
        if not any(_is_float(value) for value in operation.operands):
            return 0.0
        if name in {"reduce", "reduce_window", "scatter"}:
            return self._reduced(name, operation) * self.of_region(operation.regions[0])
        return _plain(dialect, name, operation)

    def _devices(self, manual: Any) -> float:
        """How many devices run their own part of a ``shard_map``."""
        split = f"{manual.attributes['in_shardings']}{manual.attributes['out_shardings']}"
        (name,) = set(re.findall(r"@(\w+)", split))
        sizes = dict(re.findall(r'"(\w+)"=(\d+)', self.meshes[name]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r'"(\w+)"', str(manual.attributes["manual_axes"])))

    def _reduced(self, name: str, operation: Any) -> float:
        """How often the function of a reduction is called."""
        arrays = len(operation.results)
        if name == "scatter":
            return _size(operation.operands[-1])
        if name == "reduce_window":
            return _size(operation.results[0])
        return (_size(operation.operands[0]) - _size(operation.results[0])) if arrays else 0.0


def _plain(dialect: str, name: str, operation: Any) -> float:
    size = _size(operation.results[0]) if len(operation.results) else 0
    if name == "dot_general":
        shape, numbers = operation.operands[0].type.shape, str(operation.attributes["dot_dimension_numbers"])
        contracted = re.search(r"lhs_contracting_dimensions = \[([\d, ]*)\]", numbers)
        return 2.0 * size * math.prod(shape[int(axis)] for axis in (contracted[1].split(",") if contracted else ()))
    if name == "convolution":
        kernel = re.search(r"x\[([^\]]*)\]->", str(operation.attributes["dimension_numbers"]))
        features = operation.operands[1].type.shape[kernel[1].split(", ").index("o")] if kernel else 1
        return 2.0 * size * _size(operation.operands[1]) / features
    if name == "cholesky":
        return size * operation.operands[0].type.shape[-1] / 3
    if name == "triangular_solve":
        return size * operation.operands[0].type.shape[-1]
    if name == "sort":
        length = operation.operands[0].type.shape[int(re.findall(r"\d+", str(operation.attributes["dimension"]))[0])]
        return size * math.ceil(math.log2(max(length, 1)))
    if name == "convert" and operation.operands[0].type == operation.results[0].type:
        return 0.0  # a weak type that becomes a strong one
    return float(size) if name in ELEMENTWISE or dialect == "chlo" else 0.0


def _turns(loop: Any) -> int | None:
    """How often a loop turns whose condition compares a counter with a constant."""
    block = loop.regions[0].blocks[0]
    (tested,) = list(block.operations)[-1].operands
    test = tested.owner
    if getattr(test, "name", "") != "stablehlo.compare" or "LT" not in str(test.attributes["comparison_direction"]):
        return None
    first, last = (_constant(each, block, loop) for each in test.operands)
    return None if first is None or last is None else max(0, last - first)


def _constant(value: Any, block: Any, loop: Any) -> int | None:
    """A number that is written in the program, or that a loop starts from."""
    carried = [index for index, argument in enumerate(block.arguments) if argument == value]
    owner = loop.operands[carried[0]].owner if carried else value.owner
    if getattr(owner, "name", "") != "stablehlo.constant":
        return None
    number = re.match(r"dense<(-?\d+)> : tensor<[su]?i", str(owner.attributes["value"]))
    return int(number[1]) if number else None


def _size(value: Any) -> int:
    return math.prod(value.type.shape)


def _is_float(value: Any) -> bool:
    element = getattr(value.type, "element_type", None)
    return element is not None and bool(FLOATS.match(str(element)))


def _text(operation: Any, name: str) -> str:
    return str(operation.attributes[name]).strip('"@')
