"""Optimised programs as XLA prints them: computations of instructions, and how often each of them runs.

Read from ``compiled.as_text()``, because a compile-only device has no other form of its program.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

ARRAY = re.compile(r"\b([a-z]+\d*[a-z\d]*)\[([\d,<=]*)\](\{[^}]*\})?")
BITS = re.compile(r"\d+")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=(%[\w.\-]+)")
HEADER = re.compile(r"^(ENTRY )?(%[\w.\-]+) \(.*\{$")
NAME = re.compile(r"%[\w.\-]+")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Array(NamedTuple):
    """The type of a value.

    Attributes:
      dtype: as XLA writes it: ``f32``, ``bf16``, ``pred``.
      shape: of dimensions.
      bits: of an element.
      stored: bytes that it takes in memory: rows and columns of a TPU's arrays are padded to tiles.
      space: of memory; 0 is the device's main one.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: int
    stored: float
    space: int

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """Of its elements."""
        return self.size * self.bits / 8


class Instruction(NamedTuple):
    """One line: ``%name = results operation(%operands), attributes``."""

    name: str
    results: tuple[Array, ...]
    operation: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, role: str) -> list[str]:
        """Names of the computations that it calls as ``calls``, ``body``, ``condition`` or ``to_apply``."""
        return [name for kind, name in CALLED.findall(self.attributes) if kind == role]

    @property
    def branches(self) -> list[str]:
        """Computations of which a conditional runs one."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        return NAME.findall(listed[1]) if listed else self.called("true_computation") + self.called("false_computation")


Computation = Mapping[str, Instruction]


class Program(NamedTuple):
    """All computations by name, and the one that is run."""

    computations: dict[str, Computation]
    entry: str


class Run(NamedTuple):
    """An instruction of the schedule, the computation that it stands in, and how often a call runs it."""

    instruction: Instruction
    computation: str
    times: float


def parsed(text: str) -> Program:
    """The program of an HLO text."""
    computations: dict[str, Computation] = {}
    entry, instructions = "", {}
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            instructions = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line)
            instructions[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().partition(" = ")
    types, rest = _first(rest)
    operation, _, rest = rest.strip().partition("(")
    operands, attributes = _first(f"({rest}")
    named = tuple(NAME.findall(operands)) or ((operands,) if operation in {"constant", "parameter"} else ())
    return Instruction(
        name.removeprefix("ROOT "), arrays(types), operation, named, attributes, name.startswith("ROOT ")
    )


def _first(text: str) -> tuple[str, str]:
    """The text up to its first space outside of parentheses and braces, or up to the end of the first parentheses."""
    depth = 0
    for position, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0 and letter == ")" and text[0] == "(":
            return text[: position + 1], text[position + 1 :]
        if depth == 0 and letter == " ":
            return text[:position], text[position:]
    return text, ""


def arrays(types: str) -> tuple[Array, ...]:
    """The arrays of a type; those of a tuple one after another, nested ones too."""
    return tuple(_array(*each) for each in ARRAY.findall(types))


def _array(dtype: str, dimensions: str, layout: str) -> Array:
    shape = tuple(int(size.strip("<=")) for size in dimensions.split(",") if size)
    named = BITS.search(dtype)
    bits = int(named[0]) if named else 8 if dtype == "pred" else 0
    space = re.search(r"S\((\d+)\)", layout)
    order, _, tiles = layout.strip("{}").partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    physical = [shape[int(index)] for index in order.split(",") if index]  # the fastest first
    for index, size in enumerate(reversed(tile[1].split(",")) if tile and shape else ()):
        if index < len(physical):
            physical[index] = -(-physical[index] // int(size)) * int(size)
    stored = math.prod(physical) if tile and len(physical) == len(shape) else math.prod(shape)
    return Array(dtype, shape, bits, stored * bits / 8, int(space[1]) if space else 0)


def schedule(program: Program) -> Iterator[Run]:
    """Every instruction that the device runs as one, in order, loops and branches entered; fusions are not.

    A loop's instructions run as often as its trip count says: the compiler's, or that of a counter below a constant. A
    loop of unknown length counts as one turn, and each branch of a conditional as an equal share of it.
    """
    yield from _scheduled(program, program.entry, 1.0)


def _scheduled(program: Program, name: str, times: float) -> Iterator[Run]:
    for instruction in program.computations[name].values():
        yield Run(instruction, name, times)
        inside: list[tuple[str, float]] = []
        if instruction.operation == "while":
            turns = trips(program, name, instruction)
            often = times * (1 if turns is None else turns)
            inside = [(each, often) for role in ("condition", "body") for each in instruction.called(role)]
        elif instruction.operation == "conditional":
            inside = [(each, times / len(instruction.branches)) for each in instruction.branches]
        elif instruction.operation == "call":
            inside = [(each, times) for each in instruction.called("to_apply") + instruction.called("calls")]
        elif instruction.operation == "async-start":
            inside = [(each, times) for each in instruction.called("calls")]
        for each, often in inside:
            yield from _scheduled(program, each, often)


def trips(program: Program, name: str, loop: Instruction) -> int | None:
    """Turns of a loop that stands in the named computation; None where they are not known before it runs."""
    stated = TRIPS.search(loop.attributes)
    if stated:
        return int(stated[1])
    (condition,) = loop.called("condition")
    inside, outside = program.computations[condition], program.computations[name]
    test = next(each for each in inside.values() if each.is_root)
    if test.operation != "compare" or "direction=LT" not in test.attributes:
        return None
    carried = outside.get(loop.operands[0])
    counter, limit = (_position(inside, each) for each in test.operands)
    most = _constant(inside, test.operands[1]) if limit is None else _initial(outside, carried, limit)
    if counter is None or most is None:
        return None
    return max(0, most - (_initial(outside, carried, counter) or 0))


def _position(computation: Computation, name: str) -> int | None:
    """Which part of the computation's parameter a value is."""
    instruction = _through_copies(computation, name)
    found = re.search(r"index=(\d+)", instruction.attributes) if instruction.operation == "get-tuple-element" else None
    return int(found[1]) if found else None


def _initial(computation: Computation, carried: Instruction | None, position: int) -> int | None:
    """The constant that a loop starts from at that position of what it carries."""
    if carried is None or carried.operation != "tuple":
        return None
    return _constant(computation, carried.operands[position])


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _through_copies(computation, name)
    number = re.fullmatch(r"\((-?\d+)\)", instruction.operands[0]) if instruction.operation == "constant" else None
    return int(number[1]) if number else None


def _through_copies(computation: Computation, name: str) -> Instruction:
    instruction = computation[name]
    while instruction.operation in {"copy", "bitcast"}:
        instruction = computation[instruction.operands[0]]
    return instruction


def results_of(computation: Computation, names: tuple[str, ...]) -> list[Array]:
    """The arrays of the named values."""
    return [array for name in names if name in computation for array in computation[name].results]


def nested(program: Program, instruction: Instruction) -> Iterator[tuple[Instruction, str, Instruction]]:
    """Instructions inside of a fusion and of the fusions in it: each, its computation, and the fusion around it."""
    for name in instruction.called("calls"):
        for inner in program.computations[name].values():
            yield inner, name, instruction
            yield from nested(program, inner)
