"""The rows of the transformer benchmark: who does the same work in what time, and what that time stands against."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import numpy as np

from experiments.benchmarks import lm_limits, lm_work
from experiments.benchmarks.lm_limits import Machine, Work
from experiments.benchmarks.lm_work import COMPILED, EAGER, GENERATE, TRL, Given, Load, Side, Size
from gvgap_jax.runtime.packages import is_installed

FIRST_LOSS, LAST_LOSS = 1e-4, 1e-2  # relative differences of float32 that still are the same computation


class Row(NamedTuple):
    """One side doing one kind of work. Numbers that could not be measured are NaN, and ``note`` says why.

    Attributes:
      tokens_per_second: of all sequences in training, of responses in decoding.
      ratio: our tokens a second over these.
      seconds: of a gradient step or of a batch of responses; ``one_row`` is the same with a batch of 1.
      spread: (slowest - fastest) / median over the repetitions.
      compile_seconds: before the first call.
      first, last: relative differences from our loss at the first and the last step of the first call; in decoding
        ``first`` is the share of responses that differ where both take the most probable token.
      arithmetic, memory: shares of this machine's speed in a large matrix product, and in a large copy.
      limit: the highest floor: fixed costs (one row), arithmetic or memory.
      share: that floor over the seconds: 1 is as fast as it allows.
    """

    work: str
    size: str
    side: str
    tokens_per_second: float = np.nan
    ratio: float = np.nan
    seconds: float = np.nan
    one_row: float = np.nan
    spread: float = np.nan
    compile_seconds: float = np.nan
    first: float = np.nan
    last: float = np.nan
    arithmetic: float = np.nan
    memory: float = np.nan
    limit: str = ""
    share: float = np.nan
    note: str = ""


class Timed(NamedTuple):
    """Median seconds of a call, their spread, and what the first call gave."""

    seconds: float
    spread: float
    found: np.ndarray


class Absent(NamedTuple):
    """A side that cannot take part, and why."""

    name: str
    reason: str


def peers_are_installed() -> bool:
    """Whether PyTorch and transformers, of the extra ``bench``, are there."""
    return is_installed("torch", "transformers")


def training(load: Load, size: Size, machine: Machine, repeats: int, compile: bool) -> list[Row]:
    """Our trainer, PyTorch and TRL: the same parameters, batches, optimiser and precision.

    Raises:
      ArithmeticError: a peer's losses are not ours, so that there is nothing to compare.
    """
    given = lm_work.given(size)
    entries = [lm_work.trainer(load, size, given), *_training_peers(load, size, given, compile)]
    sides = [entry for entry in entries if isinstance(entry, Side)]
    timed = interleaved(sides, repeats)
    for side, found in zip(sides, timed, strict=True):
        _check(f"{load}, {size.name}: {side.name}", found.found, timed[0].found)
    single = replace(size, batch=1)
    alone = lm_work.given(single)
    ones = [lm_work.trainer(load, single, alone), *_training_peers(load, single, alone, compile=False)]
    ones = [side for side in ones if isinstance(side, Side)]
    one_row = {
        side.name: found.seconds / size.steps for side, found in zip(ones, interleaved(ones, repeats), strict=True)
    }
    tokens, work = size.sequences(load) * size.length, lm_limits.training_step(load, size)
    rows = []
    for side, found in zip(sides, timed, strict=True):
        row = _row(load, size, side, found, timed[0], size.steps, tokens, work, machine, one_row.get(side.name, np.nan))
        first, last = _differences(found.found, timed[0].found)
        rows.append(row._replace(first=first, last=last))
    rows += [Row(load, size.name, entry.name, note=entry.reason) for entry in entries if isinstance(entry, Absent)]
    return [*rows, _trl(load, size, given, rows[0], timed[0].found[0], work, machine)]


def decoding(size: Size, machine: Machine, repeats: int) -> list[Row]:
    """Our decoder and ``generate``: the same parameters, prompts and lengths, drawn at temperature 1."""
    given, single = lm_work.given(size), replace(size, batch=1)
    alone = lm_work.given(single)
    makers: list[Callable[..., Side]] = [lm_work.decoder]
    if peers_are_installed():
        from experiments.benchmarks import torch_lm

        makers.append(torch_lm.decoder)
    greedy = [make(size, given, greedy=True).run() for make in makers] if len(makers) > 1 else [np.zeros((1, 1))]
    sides = [make(size, given) for make in makers]
    timed = interleaved(sides, repeats)
    ones = interleaved([make(single, alone) for make in makers], repeats)
    tokens, work, rows = size.batch * size.horizon, lm_limits.decoding(size), []
    for side, found, one, chosen in zip(sides, timed, ones, greedy, strict=True):
        row = _row("decoding", size, side, found, timed[0], 1, tokens, work, machine, one.seconds)
        rows.append(row._replace(first=float(np.mean(np.any(chosen != greedy[0], axis=1)))))
    return rows if len(rows) > 1 else [*rows, Row("decoding", size.name, GENERATE, note="not installed")]


def interleaved(sides: Sequence[Side], repeats: int) -> list[Timed]:
    """Every side once to warm up, then all in turn, so that what disturbs the machine disturbs all of them."""
    found = [side.run() for side in sides]
    for side in sides:
        side.settle()
    seconds = [[_seconds(side.run) for side in sides] for _ in range(repeats)]
    return [
        Timed(median(own), (max(own) - min(own)) / median(own), first)
        for own, first in zip(zip(*seconds, strict=True), found, strict=True)
    ]


def _seconds(run: Callable) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _training_peers(load: Load, size: Size, given: Given, compile: bool) -> list[Side | Absent]:
    if not peers_are_installed():
        return [Absent(EAGER, "not installed"), Absent(COMPILED, "not installed")]
    from experiments.benchmarks import torch_lm

    batches = lm_work.batches(load, size, given)
    peers: list[Side | Absent] = [torch_lm.trainer(load, size, given, batches)]
    if compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        return [*peers, Absent(COMPILED, "no C++ compiler")]
    if compile:
        try:
            peers.append(torch_lm.trainer(load, size, given, batches, compile=True))
        except Exception as error:  # a compiler that is there need not work
            peers.append(Absent(COMPILED, f"failed: {type(error).__name__}"))
    return peers


def _trl(load: Load, size: Size, given: Given, ours: Row, first: float, work: Work, machine: Machine) -> Row:
    """TRL's row. Its loop cannot be stopped and resumed, so it is timed after the others, step by step."""
    if not peers_are_installed() or not is_installed("trl"):
        return Row(load, size.name, TRL, note="not installed")
    from experiments.benchmarks import trl_peer

    steps = trl_peer.train(load, size, given, lm_work.batches(load, size, given)[0], size.steps)
    _check(f"{load}, {size.name}: {TRL}", np.array([steps.first_loss]), np.array([first]))
    seconds = float(np.median(steps.seconds))
    spread = float(np.ptp(steps.seconds)) / seconds
    tokens = ours.tokens_per_second * ours.seconds
    return Row(
        work=load,
        size=size.name,
        side=TRL,
        tokens_per_second=tokens / seconds,
        ratio=seconds / ours.seconds,
        seconds=seconds,
        spread=spread,
        first=abs(steps.first_loss / first - 1),
        arithmetic=work.operations / seconds / machine.arithmetic,
        memory=work.bytes / seconds / machine.memory,
    )


def _row(
    name: str,
    size: Size,
    side: Side,
    timed: Timed,
    ours: Timed,
    calls: int,
    tokens: int,
    work: Work,
    machine: Machine,
    one_row: float,
) -> Row:
    seconds = timed.seconds / calls
    floors = {
        "fixed costs": one_row,
        "arithmetic": work.operations / machine.arithmetic,
        "memory": work.bytes / machine.memory,
    }
    limit = max(floors, key=lambda floor: np.nan_to_num(floors[floor]))
    return Row(
        work=name,
        size=size.name,
        side=side.name,
        tokens_per_second=tokens / seconds,
        ratio=timed.seconds / ours.seconds,
        seconds=seconds,
        one_row=one_row,
        spread=timed.spread,
        compile_seconds=side.compile_seconds,
        arithmetic=floors["arithmetic"] / seconds,
        memory=floors["memory"] / seconds,
        limit=limit,
        share=floors[limit] / seconds,
    )


def _differences(found: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """Relative, at the first and the last step."""
    relative = np.abs(found / ours - 1)
    return float(relative[0]), float(relative[-1])


def _check(who: str, found: np.ndarray, ours: np.ndarray) -> None:
    first, last = _differences(found, ours)
    if not (first <= FIRST_LOSS and last <= LAST_LOSS):
        raise ArithmeticError(
            f"{who} does not compute what gvgap_jax does: its losses differ by {first:.1e} at the first step (allowed "
            f"{FIRST_LOSS}) and by {last:.1e} after {len(ours)} (allowed {LAST_LOSS}), relatively."
        )
