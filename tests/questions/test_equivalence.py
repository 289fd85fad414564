"""Equal classes end at the same policy, and others do not."""

import polars as pl
import pytest

from experiments.questions import equivalence
from gvgap_jax.sweep import load


@pytest.mark.slow("equivalence")
def test_equal_classes_end_at_the_same_policy(records):
    distances = load(records("equivalence"), "distances")
    same = distances.filter(pl.col("policy_order") == pl.col("verifier_order"))
    apart = distances.filter(pl.col("policy_order") != pl.col("verifier_order"))
    assert same["kl"].max() < 1e-9
    assert apart["kl"].min() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"), [({"penalty": 0.0}, "penalty must be positive"), ({"pairs": 0}, "at least 1")]
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        equivalence.Config(**settings)
