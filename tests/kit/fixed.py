"""Estimates whose intervals a test states."""

import numpy as np

from experiments.kit.intervals import Estimate, Rule
from experiments.kit.per_seed import of_values


def fixed(low, high, seeds=24, failed=0, estimate=None, excluded=None, **rule):
    """An estimate with these bounds at every level."""
    middle = (low + high) / 2 if estimate is None else estimate
    sample = of_values([0.0] * seeds + [np.nan] * failed)
    if excluded is not None:
        sample = sample._replace(excluded=excluded, rows=1000)
    return Estimate(sample, Rule("a number over {unit}", lambda values, level: (middle, low, high), **rule))


def spread(middle, half, seeds=24):
    """A number a seed, half of them above the middle and half below."""
    return middle + half * np.resize([-1.0, 1.0], seeds)
