"""The checks of sampled estimators see a wrong rate and a bias."""

import numpy as np
import polars as pl
import pytest

from experiments.questions import estimators


def made_up(rate: float, bias: float) -> dict[str, pl.DataFrame]:
    """Errors that fall as N to the ``rate``, and runs whose KL is 1 / prompts."""
    rows = [
        {"estimator": "RLOO", "horizon": 3, "prompts": prompts, "seed": seed,
         "error": prompts**rate * np.exp(0.1 * (-1) ** seed), "along": bias + 0.01 * (-1) ** seed}
        for prompts in (16, 256, 4096) for seed in range(16)
    ]  # fmt: skip
    runs = [
        {"method": "RLOO", "horizon": 3, "prompts": prompts, "seed": seed, "regret": (1 + seed) / prompts}
        for prompts in (16, 1024)
        for seed in range(16)
    ]
    return {"estimates": pl.DataFrame(rows), "runs": pl.DataFrame(runs)}


def test_an_honest_estimator_passes():
    run, slope, bias = estimators.findings(made_up(-0.5, 0.0))
    assert run.interval.estimate == pytest.approx(64)
    assert run.verdict == "supported"
    assert slope.control
    assert slope.verdict == "equal within 0.2"
    assert bias.verdict == "equal within 0.02"


def test_a_wrong_rate_and_a_bias_are_seen():
    _, slope, bias = estimators.findings(made_up(-0.3, 0.1))
    assert slope.verdict == "different: above"
    assert bias.verdict == "different: above"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": 20}, "multiple of 16"),
        ({"gold_order": 4}, "at most the horizon, 3"),
        ({"beta": 0.0}, "beta must be positive"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        estimators.Config(**settings)
