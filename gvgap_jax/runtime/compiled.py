"""What a compiled program needs and does, read from it: memory, operations, bytes, communication, precision."""

import re
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from gvgap_jax.runtime import hlo
from gvgap_jax.runtime.chips import Chip
from gvgap_jax.runtime.collectives import Collective, collectives
from gvgap_jax.runtime.devices import memory_needed
from gvgap_jax.runtime.flops import flops_of
from gvgap_jax.runtime.traffic import moved, started

MAIN = {"tpu": frozenset({0}), "gpu": frozenset({0, 1}), "cpu": frozenset({0})}  # 1: a TPU's VMEM, a GPU's NCCL buffers
PRECISIONS = ("none", "float64", "float32", "bfloat16_3x", "tf32", "float16", "bfloat16", "float8")  # from the highest
TYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f8": "float8"}
OF_FLOAT32 = {  # what a product of float32 is computed in: by the platform and the precision that is asked for
    "tpu": {"default": "bfloat16", "high": "bfloat16_3x", "highest": "float32"},
    "gpu": {"default": "tf32", "high": "tf32", "highest": "float32"},
    "cpu": {"default": "float32", "high": "float32", "highest": "float32"},
}
ALGORITHMS = {  # that are asked for by name
    "dot_bf16_bf16_f32": "bfloat16",
    "dot_bf16_bf16_f32_x3": "bfloat16_3x",
    "dot_tf32_tf32_f32": "tf32",
}
PASSES = {"float64": 2.0, "float32": 1.0, "none": 1.0}  # of the peak in float32
OF_BFLOAT16 = {"bfloat16_3x": 3.0, "tf32": 2.0, "float16": 1.0, "bfloat16": 1.0, "float8": 1.0}  # of that in bfloat16


class Facts(NamedTuple):
    """Of one compiled program.

    Attributes:
      compile_seconds: that XLA took.
      memory: bytes on each device, by the compiler's own measure.
      flops: floating-point operations of a device in a call; loops of unknown length count as one turn.
      moved: bytes between a device and its memory in a call, estimated from the schedule; loops likewise.
      started: instructions that a device starts in a call, kernels of a GPU; loops likewise.
      collectives: what a device sends in a call.
      precision: the lowest of a matrix product, one of ``PRECISIONS``; ``none`` without any.
    """

    compile_seconds: float
    memory: int
    flops: float
    moved: float
    started: float
    collectives: tuple[Collective, ...]
    precision: str


def facts(
    lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, compile_seconds: float, mesh: Mesh | None = None
) -> Facts:
    """Read the facts of a program; axes of communication are those of ``mesh``, the one that it was lowered for."""
    program = hlo.parsed(str(compiled.as_text()))
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    devices = max((sharding.device_set for sharding in shardings), key=len)
    platform = next(iter(devices)).platform
    return Facts(
        compile_seconds,
        memory_needed(compiled),
        flops_of(lowered),
        moved(program, MAIN[platform]),
        started(program),
        collectives(program, len(devices), mesh),
        precision(program, platform),
    )


def bound(facts: Facts, chip: Chip) -> tuple[str, float]:
    """What limits a call on a device, ``matrix units``, ``memory`` or ``links``, and its seconds at the least.

    Each at its published peak, and all three at once: no program is faster.
    """
    seconds = {
        "matrix units": facts.flops / matrix_peak(chip, facts.precision),
        "memory": facts.moved / chip.bandwidth_bytes_per_s,
        "links": sum(each.bytes for each in facts.collectives) / chip.links_bytes_per_s,
    }
    limit = max(seconds, key=lambda name: seconds[name])
    return limit, seconds[limit]


def matrix_peak(chip: Chip, precision: str) -> float:
    """Peak operations a second of matrix products in a precision: TF32 has half of bfloat16's, three passes a third."""
    if precision in OF_BFLOAT16:
        return chip.flops_bfloat16 / OF_BFLOAT16[precision]
    return chip.flops_float32 / PASSES[precision]


def is_lower(precision: str, than: str) -> bool:
    """Whether a precision of matrix products is lower than another."""
    return PRECISIONS.index(precision) > PRECISIONS.index(than)


def precision(program: hlo.Program, platform: str) -> str:
    """The lowest precision in which a matrix product of a program is computed on that platform."""
    lowest = "none"
    for computation in program.computations.values():
        for instruction in computation.values():
            if _is_product(instruction):
                operands = hlo.results_of(computation, instruction.operands[:2])
                lowest = max((lowest, *_precisions(instruction, operands, platform)), key=PRECISIONS.index)
    return lowest


def _is_product(instruction: hlo.Instruction) -> bool:
    library = re.search(r'custom_call_target="(__cublas|__cudnn|__onednn)', instruction.attributes)
    return instruction.operation in {"dot", "convolution"} or bool(library)


def _precisions(product: hlo.Instruction, operands: list[hlo.Array], platform: str) -> list[str]:
    """One for each operand; integers have none."""
    asked = re.search(r'operand_precision"?[=:][\[{]"?(\w+)"?,"?(\w+)', product.attributes)
    each = [name.lower() for name in asked.groups()] if asked else ["default", "default"]
    algorithm = re.search(r'algorithm"?[=:]"?(?:ALG_)?(\w+)', product.attributes)
    named = algorithm[1].lower() if algorithm else "unset"
    if named != "unset":
        return [ALGORITHMS.get(named, "float32")]
    types = [next((TYPES[key] for key in TYPES if array.dtype.startswith(key)), "none") for array in operands]
    return [
        OF_FLOAT32[platform][wanted] if dtype == "float32" else dtype
        for dtype, wanted in zip(types, each, strict=False)
    ]
