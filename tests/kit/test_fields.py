"""Values of settings that single precision or the solver cannot carry are refused in one sentence with their range."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.kit import fields


@pytest.mark.parametrize("name", fields.POSITIVE)
@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 101.0, np.inf, np.nan])
def test_a_positive_number_has_a_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be positive, between 0.01 and 100, got {value}"):
        fields.check(SimpleNamespace(**{name: value}))


@pytest.mark.parametrize("value", [10.5, np.inf, np.nan])
def test_a_reference_scale_has_a_range(value):
    with pytest.raises(ValueError, match=f"^reference_scale must be at .* got {value}"):
        fields.check(SimpleNamespace(reference_scale=value))


def test_a_vocabulary_has_two_tokens():
    with pytest.raises(ValueError, match="vocabulary must be at least 2, got 1"):
        fields.check(SimpleNamespace(vocabulary=1))


def test_the_ends_of_a_range_are_in_it():
    fields.check(SimpleNamespace(beta=0.01, temperature=100.0, reference_scale=0.0, vocabulary=2))
    fields.check(SimpleNamespace(reference_scale=10.0))
