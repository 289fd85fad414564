"""What a compiled program moves between a device and its memory: an estimate from the compiler's schedule.

Every instruction that the device runs as one reads its operands and writes its results, so far as these are in the
device's main memory and not in the fast memory of its core. Slices, gathers and updates move what they touch, also
where they are inside of a fusion. What a matrix product reads twice because a core cannot hold it, and what a GPU's
cache saves, is not seen.
"""

from gvgap_jax.runtime.hlo import Array, Computation, Instruction, Program, Run, results_of, schedule

FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
FREE |= {"while", "conditional", "call", "opt-barrier", "add-dependency", "domain"}  # what is in them is counted itself
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")  # of a TPU: nothing is moved
PARTS = {"slice", "dynamic-slice", "gather"}  # read of their first operand what they return
SAME = {"bitcast", "convert", "copy", "reshape", "transpose"}  # inside of a fusion: read what is asked of them
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}


def moved(program: Program, main: frozenset[int] = frozenset({0})) -> float:
    """Bytes that a call moves from and to a device's main memory, which the numbered memory spaces are."""
    return sum(run.times * _of(program, run, main) for run in schedule(program))


def started(program: Program) -> float:
    """Instructions that a device starts in a call, each with a cost of its own, however little it moves."""
    return sum(run.times for run in schedule(program) if not _is_free(run.instruction))


def _is_free(instruction: Instruction) -> bool:
    operation = instruction.operation
    if operation in FREE or operation.endswith(("-done", "-update")):
        return True
    return operation == "custom-call" and any(f'"{name}"' in instruction.attributes for name in FREE_CALLS)


def _of(program: Program, run: Run, main: frozenset[int]) -> float:
    instruction, computation = run.instruction, program.computations[run.computation]
    operation = instruction.operation
    if _is_free(instruction):
        return 0.0
    if operation.endswith("-start"):
        return _started(instruction, computation, main)
    reads = sum(
        _read(program, computation, instruction, position)
        for position, name in enumerate(instruction.operands)
        if name in computation and _in(computation[name].results, main)
    )
    writes = _written(program, computation, instruction)
    return reads + sum(size for size, array in zip(writes, instruction.results, strict=True) if _in((array,), main))


def _in(arrays: tuple[Array, ...], main: frozenset[int]) -> bool:
    return bool(arrays) and arrays[0].space in main


def _started(instruction: Instruction, computation: Computation, main: frozenset[int]) -> float:
    """A copy, a slice or a collective that goes on beside others: its results name its operands as well."""
    operands = results_of(computation, instruction.operands)
    made = [array for array in instruction.results if array.shape and array not in operands] or operands
    whole = instruction.operation.removesuffix("-start") in COLLECTIVES
    reads = operands if whole else [each._replace(space=operands[0].space) for each in made] if operands else []
    return sum(array.stored for array in (*reads, *made) if array.space in main)


def _read(program: Program, computation: Computation, user: Instruction, position: int) -> float:
    """Bytes that an instruction reads of its operand at a position."""
    (*_, array) = computation[user.operands[position]].results
    whole = sum(each.stored for each in computation[user.operands[position]].results)
    if user.operation in PARTS and position == 0:
        return min(whole, user.results[0].stored * array.bits / max(1, user.results[0].bits))
    if user.operation == "dynamic-update-slice" and position == 0:
        return 0.0
    if user.operation == "scatter" and position < _targets(user):
        return min(whole, _updates(computation, user))
    if user.operation == "fusion":
        (name,) = user.called("calls")
        inside = program.computations[name]
        parameter = next(
            each.name
            for each in inside.values()
            if each.operation == "parameter" and each.operands == (f"({position})",)
        )
        return min(whole, _asked(program, inside, parameter))
    return whole


def _asked(program: Program, computation: Computation, name: str) -> float:
    """Bytes of a value that a fusion's instructions ask for."""
    total = 0.0
    for user in computation.values():
        for position, operand in enumerate(user.operands):
            if operand == name and user.operation in SAME and not user.is_root:
                wider = computation[name].results[0].bits / max(1, user.results[0].bits)
                total += wider * _asked(program, computation, user.name)
            elif operand == name and user.operation != "tuple":  # a value that is passed on stays where it is
                total += _read(program, computation, user, position)
    return total


def _written(program: Program, computation: Computation, instruction: Instruction) -> list[float]:
    """Bytes that an instruction writes of each of its results."""
    whole = [array.stored for array in instruction.results]
    if instruction.operation == "dynamic-update-slice":
        return [results_of(computation, instruction.operands[1:2])[0].stored]
    if instruction.operation == "scatter":
        return [min(each, _updates(computation, instruction)) for each in whole]
    if instruction.operation == "fusion":
        (name,) = instruction.called("calls")
        inside = program.computations[name]
        (root,) = (each for each in inside.values() if each.is_root)
        return _of_root(program, inside, root)
    return whole


def _of_root(program: Program, computation: Computation, root: Instruction) -> list[float]:
    if root.operation == "tuple":
        return [size for name in root.operands for size in _of_root(program, computation, computation[name])]
    if root.operation == "parameter":
        return [0.0 for _ in root.results]
    if root.operation in {"bitcast", "convert"} and root.operands[0] in computation:
        below = computation[root.operands[0]]
        if below.operation == "dynamic-update-slice":
            return [_written(program, computation, below)[0] * root.results[0].bits / max(1, below.results[0].bits)]
    return _written(program, computation, root)


def _targets(scatter: Instruction) -> int:
    """How many arrays a scatter updates: before its indices, and as many updates after them."""
    return (len(scatter.operands) - 1) // 2


def _updates(computation: Computation, scatter: Instruction) -> float:
    return results_of(computation, scatter.operands[_targets(scatter) + 1 :])[0].stored
