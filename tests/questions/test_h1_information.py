"""Information in samples would be seen: verdicts on made-up records."""

import polars as pl
import pytest

from experiments.questions import h1_information


def made_up_fits(gain: float) -> pl.DataFrame:
    """Sampled second stages that end ``gain`` nats below the exact one."""
    numbers = {"horizon": 3, "pairs": 512, "gold_order": 1, "beta": 1.0, "temperature": 1.0, "reference_scale": 1.0}
    rows = []
    for seed in range(32):
        for order, exact in ((1, 0.1), (3, 0.3)):
            shared = numbers | {"seed": seed, "order": order, "penalty": 1.0, "penalty_exact": 1.0}
            regret = exact + seed / 100
            rows.append(shared | {"responses": 0, "regret": 0.3 + seed / 100, "regret_exact": regret})
            rows.append(shared | {"responses": 1000, "regret": regret - gain + seed * 1e-4, "regret_exact": regret})
    return pl.DataFrame(rows)


@pytest.mark.parametrize(("gain", "verdict"), [(0.0, "contradicted"), (0.05, "supported")])
def test_information_in_samples_would_be_seen(gain, verdict):
    *found, control = h1_information.findings({"fits": made_up_fits(gain)})
    assert [finding.verdict for finding in found[:3]] == 3 * [verdict]
    assert found[3].interval.estimate == pytest.approx(0.2)
    assert control.control
    assert control.verdict == "supported"
    assert control.bound < h1_information.MATTERS


def test_a_second_stage_that_is_not_certified_has_as_much_leeway_as_matters():
    fits = made_up_fits(0.0).with_columns(backend=pl.lit("transformer"))
    assert h1_information.findings({"fits": fits})[-1].bound == h1_information.MATTERS
