"""Timed solvers: gvgap_jax batched, plain JAX one fit at a time, and any peer that solves one cell after another."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from experiments.benchmarks import problems
from experiments.benchmarks.problems import Data, Kind, Solution
from gvgap_jax import TokenTree, algorithms, losses, optimize, policies, verifiers
from gvgap_jax.algorithms import Problem, Settings
from gvgap_jax.runtime import devices
from gvgap_jax.types import Fit

PASSES = 3  # the fastest counts
ENOUGH_SECONDS = 5.0  # no further pass after that many


class Run(NamedTuple):
    """Solutions of all cells, and what they cost: wall and CPU seconds of all threads, and compiling apart."""

    solutions: list[Solution]
    seconds: float
    cpu_seconds: float
    compile_seconds: float = 0.0
    compilations: int = 0


def fastest(solve: Callable):
    """Result, wall seconds and CPU seconds of the fastest pass."""
    passes, began = [], time.perf_counter()
    while len(passes) < PASSES and time.perf_counter() - began < ENOUGH_SECONDS:
        wall, cpu = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(solve())
        passes.append((time.perf_counter() - wall, time.process_time() - cpu, result))
    seconds, cpu_seconds, result = min(passes, key=lambda entry: entry[0])
    return result, seconds, cpu_seconds


def sweep_fit(tree: TokenTree, kind: Kind, settings: Settings, problem: Problem) -> Fit:
    """The fit of the sweep: offline DPO of the tabular policy, or stage one of RLHF."""
    policy = policies.tabular(tree, tree.conditionals(problem.known.reference))
    classes = algorithms.Classes(policy, verifiers.nested_interactions(tree, kind.order) if kind.order else None)
    method = algorithms.reward_model if kind.order else algorithms.dpo
    return method(jax.random.key(0), classes, problem, settings)


def adam_fit(tree: TokenTree, steps: int, learning_rate: float, problem: Problem) -> Fit:
    """Offline DPO by a fixed number of Adam steps on the mean loss, without penalty or early exit."""
    policy, train = policies.tabular(tree, tree.conditionals(problem.known.reference)), problem.train

    def loss(params):
        log_chosen = policy.log_prob(params, train.prompts, train.chosen)
        log_rejected = policy.log_prob(params, train.prompts, train.rejected)
        return losses.dpo(log_chosen, log_rejected, train.reference_margin, problem.known.beta, train.weight)

    return optimize.minimise(loss, policy.init(jax.random.key(0)), optax.adam(learning_rate), steps)


def batched(fit: Callable[[Problem], Fit], cells: Problem) -> Run:
    """gvgap_jax: all cells in one compiled call, over all devices."""
    size = problems.size(cells)
    padding = np.minimum(np.arange(devices.rows_over_devices(size)), size - 1)
    cells = jax.device_put(jax.tree.map(lambda values: values[padding], cells))
    program, compile_seconds = compiled(devices.over_devices(fit), cells)
    fits, seconds, cpu_seconds = fastest(lambda: program(cells))
    fits = jax.device_get(fits)
    solutions = [solution(jax.tree.map(lambda values, i=i: values[i], fits)) for i in range(size)]
    return Run(solutions, seconds, cpu_seconds, compile_seconds, 1)


def one_by_one(fit: Callable[[Problem], Fit], cells: Problem, padded: bool) -> Run:
    """Plain JAX on one device: compiled once for the padded shape, or anew for every number of pairs."""
    singles = [problems.take(cells, index) for index in range(problems.size(cells))]
    singles = singles if padded else [problems.trimmed(single) for single in singles]
    singles = jax.device_put(singles)
    shapes = {_shape(single): single for single in singles}
    programs = {shape: compiled(jax.jit(fit), single) for shape, single in shapes.items()}

    def solve():
        return [jax.block_until_ready(programs[_shape(single)][0](single)) for single in singles]

    fits, seconds, cpu_seconds = fastest(solve)
    compile_seconds = sum(seconds for _, seconds in programs.values())
    return Run([solution(one) for one in fits], seconds, cpu_seconds, compile_seconds, len(programs))


def peer(solve: Callable[[Data], Solution], data: list[Data]) -> Run:
    """One cell after another, after one fit to warm up."""
    solve(data[0])
    return Run(*fastest(lambda: [solve(cell) for cell in data]))


def _shape(single: Problem) -> tuple[int, int]:
    return single.train.weight.shape[0], single.held_out.pairs.weight.shape[0]


def compiled(program, *arguments):
    """The compiled program, and the seconds it took."""
    started = time.perf_counter()
    executable = program.lower(*arguments).compile()
    return executable, time.perf_counter() - started


def solution(one: Fit) -> Solution:
    """A fit of ours as peers give theirs."""
    params = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.params)])
    return Solution(params, float(one.penalty), bool(one.converged))
