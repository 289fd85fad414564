"""SciPy's L-BFGS-B, one fit after another: numpy in float64, the gradient derived by hand."""

import numpy as np
from scipy.optimize import minimize

from experiments.benchmarks.problems import Data, Kind, Objective, Solution, objective, tolerance_of
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Settings

MEMORY = 20  # corrections kept; 10 and 40 took as long
MOST_STEPS = 2000


def solve(tree: TokenTree, kind: Kind, settings: Settings, data: Data) -> Solution:
    """Every penalty of the path, strongest first and warm-started, and the one of the lowest held-out loss."""
    problem, limit = objective(tree, kind, data), tolerance_of(data, settings)
    params, found = np.zeros(problem.dimension), []
    for penalty in sorted(settings.penalties, reverse=True):
        params, norm = minimise(problem, params, penalty, limit)
        found.append((problem.held_out_loss(params), penalty, params, norm))
    _, penalty, selected, _ = min(found, key=lambda entry: entry[0])
    return Solution(selected, penalty, all(norm <= limit for *_, norm in found))


def minimise(problem: Objective, params: np.ndarray, penalty: float, limit: float) -> tuple[np.ndarray, float]:
    """Parameters and their gradient norm, at most ``limit`` unless the steps run out.

    SciPy itself stops on the largest entry of the gradient; the callback stops on its norm, no step later than needed.
    """
    _, gradient = problem.value_and_gradient(params, penalty)
    if np.linalg.norm(gradient) <= limit:
        return params, float(np.linalg.norm(gradient))
    latest = gradient

    def value_and_gradient(vector):
        nonlocal latest
        value, latest = problem.value_and_gradient(vector, penalty)
        return value, latest

    def stop_when_met(_):
        if np.linalg.norm(latest) <= limit:
            raise StopIteration

    options = {"maxcor": MEMORY, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 0.0, "gtol": 0.0}
    found = minimize(value_and_gradient, params, jac=True, method="L-BFGS-B", callback=stop_when_met, options=options)
    return found.x, float(np.linalg.norm(found.jac))
