"""Who takes part, and the row of each: time, optimality and the objective against gvgap_jax."""

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from experiments.benchmarks import problems, scipy_peer, solvers
from experiments.benchmarks.problems import Data, Kind
from experiments.benchmarks.solvers import Run
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Problem, Settings
from gvgap_jax.runtime.packages import is_installed

Entries = dict[str, Callable[[], Run]]

LEARNING_RATE = 0.03  # of the fixed number of Adam steps


class Row(NamedTuple):
    """One solver on one kind of fits.

    Attributes:
      fits: number of cells solved.
      seconds, cpu_seconds: a fit, without compiling; CPU seconds of all threads together.
      ratio: seconds over those of the first entry, gvgap_jax in a batch of the sweep's size.
      compile_seconds, compilations: of the whole row; ``seconds_with_compiling`` spreads them over its fits.
      missed: fits with a penalty whose gradient norm missed the tolerance.
      gradient_norm: largest at a selected penalty, in units of the tolerance, in float64.
      objective_gap: largest difference of the objective from the first entry's at the same penalty, nats a pair.
      same_penalty: fits that selected the first entry's penalty.
    """

    kind: str
    solver: str
    fits: int
    seconds: float
    cpu_seconds: float
    ratio: float
    compile_seconds: float
    compilations: int
    seconds_with_compiling: float
    missed: int
    gradient_norm: float
    objective_gap: float
    same_penalty: int


def penalty_path(
    tree: TokenTree, kind: Kind, settings: Settings, batch: Problem, data: list[Data], peer_fits: int
) -> Entries:
    """Solvers of the sweep's fits; peers get the first ``peer_fits`` cells."""
    fit = partial(solvers.sweep_fit, tree, kind, settings)
    sample, sampled = problems.take(batch, range(peer_fits)), data[:peer_fits]
    entries: Entries = {
        "gvgap_jax, batched": lambda: solvers.batched(fit, batch),
        "gvgap_jax, the peers' cells": lambda: solvers.batched(fit, sample),
        "plain JAX, one by one": lambda: solvers.one_by_one(fit, sample, padded=True),
        "plain JAX, compiled for every n": lambda: solvers.one_by_one(fit, sample, padded=False),
        "SciPy L-BFGS-B": lambda: solvers.peer(partial(scipy_peer.solve, tree, kind, settings), sampled),
    }
    if peer_fits == len(data):
        del entries["gvgap_jax, the peers' cells"]
    if is_installed("torch"):
        from experiments.benchmarks import torch_peer

        threads = torch_peer.threads_that_suit(tree, kind, sampled[-1], os.cpu_count() or 1)
        for method in torch_peer.METHODS:
            solve = partial(torch_peer.solve, tree, kind, settings, method)
            entries[f"PyTorch {method}, threads: {threads}"] = partial(solvers.peer, solve, sampled)
    return entries


def equal_steps(tree: TokenTree, kind: Kind, steps: int, batch: Problem, data: list[Data], peer_fits: int) -> Entries:
    """The same fixed number of Adam steps, batched and one by one."""
    fit = partial(solvers.adam_fit, tree, steps, LEARNING_RATE)
    sample, sampled = problems.take(batch, range(peer_fits)), data[:peer_fits]
    entries: Entries = {
        "gvgap_jax, batched": lambda: solvers.batched(fit, batch),
        "plain JAX, one by one": lambda: solvers.one_by_one(fit, sample, padded=True),
    }
    if is_installed("torch"):
        from experiments.benchmarks import torch_peer

        threads = torch_peer.threads_that_suit(tree, kind, sampled[-1], os.cpu_count() or 1)
        solve = partial(torch_peer.adam_steps, tree, kind, steps, LEARNING_RATE)
        entries[f"PyTorch, one by one, threads: {threads}"] = partial(solvers.peer, solve, sampled)
    return entries


def run(
    tree: TokenTree, kind: Kind, data: list[Data], entries: Entries, settings: Settings, tell: Callable[[str], None]
) -> list[Row]:
    """Time every entry and judge its solutions against the first entry's."""
    rows, first, pace = [], [], 1.0
    for solver, solve in entries.items():
        tell(f"{kind.name}: {solver}")
        run = solve()
        first = first or run.solutions
        fits = len(run.solutions)
        pace = pace if rows else run.seconds / fits
        norms, gaps = [], []
        for cell, solution, ours in zip(data, run.solutions, first, strict=False):
            judged = problems.judge(tree, kind, settings, cell, solution)
            norms.append(judged.gradient_norm)
            if np.isclose(solution.penalty, ours.penalty, rtol=1e-5):
                gaps.append(abs(judged.objective - problems.judge(tree, kind, settings, cell, ours).objective))
        rows.append(
            Row(
                kind=kind.name,
                solver=solver,
                fits=fits,
                seconds=run.seconds / fits,
                cpu_seconds=run.cpu_seconds / fits,
                ratio=run.seconds / fits / pace,
                compile_seconds=run.compile_seconds,
                compilations=run.compilations,
                seconds_with_compiling=(run.seconds + run.compile_seconds) / fits,
                missed=sum(not solution.met for solution in run.solutions),
                gradient_norm=max(norms),
                objective_gap=max(gaps, default=np.nan),
                same_penalty=len(gaps),
            )
        )
    return rows
