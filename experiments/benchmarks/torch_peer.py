"""PyTorch, one fit after another, as a user would write it: Adam, and L-BFGS with a strong Wolfe line search.

Importing this file needs the extra ``bench``.
"""

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn.functional import log_softmax, softplus  # pyright: ignore[reportMissingImports]

from experiments.benchmarks.problems import Data, Kind, Pairs, Solution, interaction_factors, tolerance_of
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Settings

MOST_STEPS = 2000  # for each penalty
LEARNING_RATE = 0.01  # of 0.01, 0.03 and 0.1 the one that met the tolerance soonest and most often
MEMORY = 20

Value = Callable[[], torch.Tensor]


class Model(NamedTuple):
    """Parameters as leaf tensors, and the margins [n] of the training and of the held-out pairs under them."""

    params: list[torch.Tensor]
    train: Value
    held_out: Value


def solve(tree: TokenTree, kind: Kind, settings: Settings, method: str, data: Data, device: str = "cpu") -> Solution:
    """Every penalty of the path, strongest first and warm-started, and the one of the lowest held-out loss."""
    minimise, dtype = METHODS[method]
    with torch.device(device):  # around this alone: it makes every operation slower
        model, limit = build(tree, kind, data, dtype), tolerance_of(data, settings)
    found = []
    for penalty in sorted(settings.penalties, reverse=True):
        norm = minimise(model.params, objective(model, penalty), limit)
        with torch.no_grad():
            held_out = float(softplus(-model.held_out()).mean())
        found.append((held_out, penalty, flat(model.params), norm))
    _, penalty, selected, _ = min(found, key=lambda entry: entry[0])
    return Solution(selected, penalty, all(norm <= limit for *_, norm in found))


def adam_steps(tree: TokenTree, kind: Kind, steps: int, learning_rate: float, data: Data) -> Solution:
    """A fixed number of Adam steps on the mean loss, without penalty or early exit."""
    model = build(tree, kind, data, torch.float32)
    optimiser = torch.optim.Adam(model.params, lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        softplus(-model.train()).mean().backward()
        optimiser.step()
    return Solution(flat(model.params), 0.0, False)


def flat(params: list[torch.Tensor]) -> np.ndarray:
    """All parameters as one numpy vector, copied."""
    return torch.cat([level.detach().reshape(-1) for level in params]).cpu().numpy().copy()


def threads_that_suit(tree: TokenTree, kind: Kind, data: Data, most: int) -> int:
    """1 or ``most`` threads, whichever evaluates 100 gradients sooner; PyTorch is left at that number."""
    model = build(tree, kind, data, torch.float32)
    value, seconds = objective(model, 1.0), {}
    for threads in sorted({1, most}):
        torch.set_num_threads(threads)
        value().backward()
        started = time.perf_counter()
        for _ in range(100):
            value().backward()
        seconds[threads] = time.perf_counter() - started
    chosen = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(chosen)
    return chosen


def objective(model: Model, penalty: float) -> Value:
    """Sum over training pairs of softplus(-margin), plus penalty/2 |params|^2."""

    def value() -> torch.Tensor:
        squares = sum((level**2).sum() for level in model.params)
        return softplus(-model.train()).sum() + penalty / 2 * squares

    return value


def adam(params: list[torch.Tensor], value: Value, limit: float) -> float:
    """Adam until the gradient norm is at most ``limit``; returns the norm."""
    optimiser = torch.optim.Adam(params, lr=LEARNING_RATE)
    for _ in range(MOST_STEPS):
        optimiser.zero_grad()
        value().backward()
        norm = gradient_norm(params)
        if norm <= limit:
            return norm
        optimiser.step()
    return norm


def lbfgs(params: list[torch.Tensor], value: Value, limit: float) -> float:
    """L-BFGS until the gradient norm is at most ``limit``; returns the norm.

    PyTorch itself stops on the largest entry of the gradient; leaving from within its closure stops on the norm,
    at the very evaluation that meets it.
    """
    optimiser = torch.optim.LBFGS(
        params,
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        history_size=MEMORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        loss = value()
        loss.backward()
        if gradient_norm(params) <= limit:
            raise StopIteration
        return loss

    with contextlib.suppress(StopIteration):
        optimiser.step(closure)
    return gradient_norm(params)


def gradient_norm(params: list[torch.Tensor]) -> float:
    """Euclidean norm over all parameters."""
    gradients = [level.grad.reshape(-1) for level in params if level.grad is not None]
    return float(torch.linalg.vector_norm(torch.cat(gradients)))


METHODS = {"L-BFGS": (lbfgs, torch.float64), "Adam": (adam, torch.float32)}
"""Minimisers with their precision: in float32 the Wolfe search stalls above the tolerance."""


def build(tree: TokenTree, kind: Kind, data: Data, dtype: torch.dtype) -> Model:
    """The tabular policy, or the reward model of interactions, starting at 0."""
    params, leaves = _reward_model(tree, kind, dtype) if kind.order else _policy(tree, data, dtype)
    scale = 1 / data.temperature if kind.order else data.beta / data.temperature

    def margins_of(pairs: Pairs) -> Value:
        chosen, rejected = torch.tensor(pairs.chosen), torch.tensor(pairs.rejected)
        offset = torch.tensor(0 * pairs.reference_margin if kind.order else pairs.reference_margin, dtype=dtype)

        def margins() -> torch.Tensor:
            values = leaves()
            return scale * (values[chosen] - values[rejected] - offset)

        return margins

    return Model(params, margins_of(data.train), margins_of(data.held_out))


def _policy(tree: TokenTree, data: Data, dtype: torch.dtype) -> tuple[list[torch.Tensor], Value]:
    shapes = [(tree.vocabulary**depth, tree.vocabulary) for depth in range(tree.horizon)]
    splits = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    levels = zip(np.split(data.base, splits), shapes, strict=True)
    base = [torch.tensor(level.reshape(shape), dtype=dtype) for level, shape in levels]
    params = [torch.zeros_like(level, requires_grad=True) for level in base]

    def log_probs() -> torch.Tensor:
        total = base[0].new_zeros(1)
        for level, reference in zip(params, base, strict=True):
            total = (total[:, None] + log_softmax(reference + level, dim=1)).reshape(-1)
        return total

    return params, log_probs


def _reward_model(tree: TokenTree, kind: Kind, dtype: torch.dtype) -> tuple[list[torch.Tensor], Value]:
    first, second, used = (torch.tensor(array, dtype=dtype) for array in interaction_factors(tree, kind.order))
    params = torch.zeros(tree.leaves, dtype=dtype, requires_grad=True)

    def rewards() -> torch.Tensor:
        coefficients = (params * used).reshape(first.shape[0], second.shape[0])
        return (first @ coefficients @ second.T).reshape(-1)

    return [params], rewards
