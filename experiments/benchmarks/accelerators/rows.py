"""The rows of ``bench gpu`` and ``bench tpu`` in order of worth, with what each is expected to take."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from experiments.benchmarks.accelerators import speeds, transformers, trees
from experiments.benchmarks.accelerators.stored import Measured

SizeName = Literal["full", "tiny"]


class Row(NamedTuple):
    """One measurement.

    Attributes:
      name: of the row; a table may compare rows by it.
      seconds: expected on an accelerator, with starting and compiling, on the careful side.
      measure: makes it, called with ``settings`` in a process of its own.
      packages: whose versions are part of what the row is of, beside those of every row.
    """

    name: str
    seconds: float
    measure: Callable[..., Measured]
    settings: dict[str, Any]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
      side, numbers: of the large matrix product, and of the large copy.
      horizon, order, pairs: of the fits on trees of V = 3; order is that of the reward model.
      cells, many_cells: of a sweep's program, on each device at once.
      seeds, judged: of the fits at once: for each number of pairs and gold reward; and those that PyTorch does too.
      torch_device: where PyTorch does them.
      leaves: vocabulary and horizons of the trees of the leaf pass, the largest first.
      models: shapes that are trained and decoded.
      trained, decoded: tokens of prompts and responses; the first as in TL;DR.
      most, steps: rows of a device at most, and gradient steps of a dispatch.
      runs, shape, batch, seed_steps, alone: of the many seeds, and how many run one after another.
    """

    side: int = speeds.LARGE_PRODUCT
    numbers: int = speeds.LARGE_COPY
    horizon: int = 6
    order: int = 2
    pairs: tuple[int, ...] = (32, 256, 2048)
    cells: int = 1024
    many_cells: int = 4096
    seeds: int = 167
    judged: int = 6
    torch_device: str = "cuda"
    leaves: tuple[int, tuple[int, int]] = (10, (7, 5))
    models: tuple[str, ...] = ("410m", "1.4b")
    trained: tuple[int, int] = (512, 53)
    decoded: tuple[int, int] = (64, 256)
    most: int = 32
    steps: int = 4
    runs: int = 32
    shape: dict[str, Any] = field(default_factory=lambda: {"vocabulary": 8})
    batch: int = 64
    seed_steps: int = 100
    alone: int = 2


SIZES: dict[SizeName, Size] = {
    "full": Size(),
    "tiny": Size(
        side=256, numbers=2**18, horizon=2, order=1, pairs=(16, 32), cells=4, many_cells=8, seeds=2, judged=2,
        torch_device="cpu", leaves=(3, (3, 2)), models=("tiny",), trained=(6, 2), decoded=(4, 4), most=2, steps=1,
        runs=2, shape={"vocabulary": 8, "layers": 1, "width": 8, "heads": 1}, batch=4, seed_steps=2, alone=1,
    ),
}  # fmt: skip
TORCH_FIT = "DPO fits by PyTorch"
FITS = "DPO fits"
AT_ONCE, ALONE = "seeds of DPO at once", "seeds of DPO one after another"


def rows(name: SizeName) -> tuple[Row, ...]:
    """All of them, the most worth first."""
    size = SIZES[name]
    fits = {"horizon": size.horizon, "order": 0, "pairs": size.pairs, "seeds": size.seeds, "judged": size.judged}
    torch = fits | {"device": size.torch_device, "method": "L-BFGS"}
    vocabulary, (most_leaves, fewer_leaves) = size.leaves
    small, *larger = size.models
    runs = {"runs": size.runs, "shape": size.shape, "batch": size.batch, "steps": size.seed_steps}
    runs |= {"measured": size.alone}

    def sweep(arm: str, cells: int) -> dict[str, Any]:
        grid = {"horizon": size.horizon, "order": size.order, "pairs": size.pairs}
        return {"arm": arm, **grid, "cells": cells}

    def leaves(horizon: int, program: str) -> dict[str, Any]:
        return {"vocabulary": vocabulary, "horizon": horizon, "name": program}

    def trained(kind: str, model: str) -> dict[str, Any]:
        prompts, responses = size.trained
        lengths = {"prompt_tokens": prompts, "response_tokens": responses}
        return {"kind": kind, "model": model, **lengths, "most": size.most, "steps": size.steps}

    def decoded(model: str) -> dict[str, Any]:
        prompts, responses = size.decoded
        return {"model": model, "prompt_tokens": prompts, "response_tokens": responses, "most": 2 * size.most}

    return (
        Row("matrix product, bfloat16", 10, speeds.product, {"dtype": "bfloat16", "side": size.side}),
        Row("matrix product, float32", 10, speeds.product, {"dtype": "float32", "side": size.side}),
        Row("copy", 10, speeds.copy, {"numbers": size.numbers}),
        Row("sweep's program, DPO", 90, trees.sweep, sweep("DPO", size.cells)),
        Row(FITS, 60, trees.fits_at_once, fits),
        Row(TORCH_FIT, 60, trees.torch_fits, torch, ("torch",)),
        Row("leaf pass", 15, trees.leaf_pass, leaves(most_leaves, "leaf pass")),
        Row(f"DPO steps, {small}", 100, transformers.training, trained("dpo", small)),
        Row(f"decoding, {small}", 60, transformers.decoding, decoded(small)),
        Row(AT_ONCE, 40, transformers.seeds, {"way": "at once", **runs}),
        Row(ALONE, 50, transformers.seeds, {"way": "one after another", **runs}),
        *(Row(f"DPO steps, {model}", 110, transformers.training, trained("dpo", model)) for model in larger),
        *(Row(f"decoding, {model}", 60, transformers.decoding, decoded(model)) for model in larger),
        Row("sweep's program, RLHF", 70, trees.sweep, sweep("RLHF", size.cells)),
        Row("gradient through the leaf pass", 15, trees.leaf_pass, leaves(most_leaves, "gradient")),
        *(Row(f"SFT steps, {model}", 90, transformers.training, trained("sft", model)) for model in size.models),
        Row("leaf pass, fewer leaves", 15, trees.leaf_pass, leaves(fewer_leaves, "leaf pass")),
        Row("sweep's program, DPO, more cells", 90, trees.sweep, sweep("DPO", size.many_cells)),
    )
