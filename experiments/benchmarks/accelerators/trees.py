"""Rows on trees: fits of the sweep's programs, the same problems by PyTorch, and the leaf pass."""

import time
from functools import partial

import jax
import numpy as np

from experiments.benchmarks import problems, solvers, throughput
from experiments.benchmarks.accelerators import roofline, speeds
from experiments.benchmarks.accelerators.roofline import Roofline
from experiments.benchmarks.accelerators.stored import Measured
from experiments.benchmarks.leaf_pass import empty_call, passes, times_of
from experiments.benchmarks.problems import Kind
from experiments.questions import sample_complexity
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Settings
from gvgap_jax.runtime.devices import over_devices, rows_over_devices
from gvgap_jax.runtime.packages import command, is_installed
from gvgap_jax.sweep import at_once, compute
from gvgap_jax.sweep.compute import PRECISION
from gvgap_jax.sweep.plan import chunks

REPEATS = 3
ROUNDING = 1.01  # a gradient norm in float64 over the tolerance that float32 met


def sweep(arm: str, horizon: int, order: int, pairs: tuple[int, ...], cells: int) -> Measured:
    """Fits of a program of ``sample_complexity``, with making their records, for so many cells a device at once."""
    batch = throughput.fits_of(arm, horizon, order, pairs, cells * jax.local_device_count())
    (chunk,) = chunks(batch, "sample_complexity", sample_complexity.MEANING, batch.size)
    work, place = at_once.alone(sample_complexity.run, chunk), at_once.place()
    program = compute.program_of(work, place)
    call = partial(compute.compute, work, [chunk], place)
    call()
    seconds = _repeated(call)
    alone = [each for _ in range(2) for each in throughput.computed(batch, 1, len(pairs))][-len(pairs) :]
    sample = {name: values[: 2 * len(pairs)] for name, values in chunk.columns.items()}
    lowered = compute.lowered(work, place, program.rows)
    least = roofline.of_rows(partial(work.run, work.program), sample, program.rows, lowered, program.call)
    calls = -(-batch.size // program.rows)
    return Measured(
        unit="fits",
        amount=batch.size,
        seconds=seconds,
        compile_seconds=program.seconds,
        floors={name: calls * floor for name, floor in least.floors.items()}
        | {"dispatch": calls * max(each.seconds for each in alone)},
        peaks=least.peaks,
        how=f"H {horizon}, order {order}; {program.rows:,} at once; {_counted(least)}",
    )


def fits_at_once(horizon: int, order: int, pairs: tuple[int, ...], seeds: int, judged: int) -> Measured:
    """The fits that peers solve too, all at once; the first few are judged in float64."""
    tree, kind, settings, cells = _fits(horizon, order, pairs, seeds)
    batch = problems.batch(tree, max(pairs), cells)
    padding = np.minimum(np.arange(rows_over_devices(len(cells))), len(cells) - 1)
    padded = jax.device_put(problems.take(batch, padding))
    fit = partial(solvers.sweep_fit, tree, kind, settings)
    started = time.perf_counter()
    with jax.default_matmul_precision(PRECISION):
        lowered = over_devices(fit).lower(padded)
    call = lowered.compile()
    compile_seconds = time.perf_counter() - started
    found = jax.device_get(call(padded))
    data = problems.as_data(tree, problems.take(batch, range(judged)))
    solved = [solvers.solution(jax.tree.map(lambda leaf, i=index: leaf[i], found)) for index in range(judged)]
    seconds = _repeated(lambda: jax.block_until_ready(call(padded)))
    least = roofline.of_rows(fit, problems.take(batch, range(judged)), len(cells), lowered, call)
    return Measured(
        unit="fits",
        amount=len(cells),
        seconds=seconds,
        compile_seconds=compile_seconds,
        floors=least.floors,
        peaks=least.peaks,
        how=f"H {horizon}; {len(cells):,} at once; {_counted(least)}; {_judged(tree, kind, settings, data, solved)}",
    )


def torch_fits(
    horizon: int, order: int, pairs: tuple[int, ...], seeds: int, judged: int, device: str, method: str
) -> Measured:
    """The first few of these fits by PyTorch, one after another, judged alike.

    Raises:
      ValueError: PyTorch is not installed, or has no such device.
    """
    if not is_installed("torch"):
        raise ValueError(f"PyTorch is not installed: {command('torch')}")
    jax.config.update("jax_platforms", "cpu")  # it only makes the pairs, and would take the device's memory
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmarks import torch_peer

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"PyTorch {torch.__version__} finds no CUDA device")
    tree, kind, settings, cells = _fits(horizon, order, pairs, seeds)
    data = problems.as_data(tree, problems.batch(tree, max(pairs), cells[:judged]))
    solve = partial(torch_peer.solve, tree, kind, settings, method, device=device)
    judgement = _judged(tree, kind, settings, data, [solve(cell) for cell in data])
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return Measured(
        unit="fits",
        amount=len(data),
        seconds=_repeated(lambda: [solve(cell) for cell in data]),
        compile_seconds=0.0,
        floors={},
        peaks="",
        how=f"H {horizon}; {method}, one after another; PyTorch {torch.__version__} on {name}; float64; {judgement}",
    )


def leaf_pass(vocabulary: int, horizon: int, name: str) -> Measured:
    """The pass from logits to leaves, or the gradient through it, on one device, against its memory."""
    tree = TokenTree(vocabulary, horizon)
    each = passes(tree)[name]
    call, compile_seconds = solvers.compiled(jax.jit(each.function), each.inputs)
    memory = speeds.of_memory()
    return Measured(
        unit="GB",
        amount=each.bytes / 1e9,
        seconds=times_of(call, each.inputs),
        compile_seconds=compile_seconds,
        floors={"memory": each.bytes / memory.value, "dispatch": empty_call()},
        peaks=memory.source,
        how=f"{tree.leaves:,} leaves, one device; float32",
    )


def _fits(horizon: int, order: int, pairs: tuple[int, ...], seeds: int) -> tuple[TokenTree, Kind, Settings, list[dict]]:
    """The tree (V = 3), the kind of fit, and cells of ``sample_complexity``, those that peers solve first."""
    golds = sorted({2, horizon})
    cells = [
        dict(pairs=count, gold_order=gold, seed=seed) for seed in range(seeds) for count in pairs for gold in golds
    ]
    return TokenTree(3, horizon), Kind("reward model" if order else "DPO", order), Settings(), cells


def _counted(least: Roofline) -> str:
    products = "no matrix products" if least.precision == "none" else f"matrix products in {least.precision}"
    return f"{least.operations / 1e6:,.3g} MFLOP a fit, {products}"


def _judged(
    tree: TokenTree, kind: Kind, settings: Settings, data: list[problems.Data], solved: list[problems.Solution]
) -> str:
    """How many of the solutions are optima, in words."""
    judgements = [
        solution.met and problems.judge(tree, kind, settings, cell, solution).gradient_norm <= ROUNDING
        for cell, solution in zip(data, solved, strict=True)
    ]
    return f"{sum(judgements)} of {len(judgements)} that were judged are optima"


def _repeated(call) -> list[float]:
    """Seconds of a call that has been made before, several times."""
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return found
