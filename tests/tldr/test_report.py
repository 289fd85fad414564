"""The recipe's report on made-up tables in which every answer is known: directions of claims, and failing controls."""

import numpy as np
import polars as pl
import pytest

from experiments.tldr import report
from experiments.tldr.settings import AGAIN, BEST_OF_N

PROMPTS = 2000  # enough that a control can be decided
WINS = {"sft": 0.25, AGAIN: 0.25, "dpo": 0.5, "online_from_sft": 0.75, "online_from_dpo": 1.0, BEST_OF_N: 0.75}
NUMBERS = np.random.default_rng(0)


def share(rate):
    """Wins of so many of the prompts, in an order of its own."""
    return NUMBERS.permutation(np.arange(PROMPTS) < rate * PROMPTS).astype(float)


def tables(wins=WINS, bias=0.0):
    """Verdicts, answers and pairs in which arms win so often, and the local reward orders every pair wrongly."""
    verdicts = [
        pl.DataFrame({"seed": 0, "judge": "gold", "arm": arm, "question": np.arange(PROMPTS), "win": share(rate),
                      "position_bias": bias * np.ones(PROMPTS)})
        for arm, rate in wins.items()
    ]  # fmt: skip
    answers = [
        pl.DataFrame({"seed": 0, "arm": arm, "question": np.arange(PROMPTS), "rouge_l": share(rate / 2),
                      "log_ratio": rate * np.ones(PROMPTS), "tokens": np.full(PROMPTS, 7)})
        for arm, rate in wins.items()
    ]  # fmt: skip
    pairs = [
        pl.DataFrame({"seed": 0, "rewards": name, "pair": np.arange(PROMPTS), "margin": margin + np.zeros(PROMPTS)})
        for name, margin in (("global", 2.0), ("local", -1.0))
    ]
    return {"verdicts": pl.concat(verdicts), "answers": pl.concat(answers), "pairs": pl.concat(pairs)}


def found(**changed):
    return {each.claim: each for each in report.findings(tables(**changed))}


@pytest.mark.parametrize(
    ("claim", "estimate"),
    [
        ("gold: win rate of online DPO from SFT less that of DPO", 25),
        ("gold: win rate of online DPO from DPO less that of DPO", 50),
        ("gold: win rate of best of n less that of DPO", 25),
        ("gold: win rate of DPO less that of SFT", 25),
        ("ROUGE-L of online DPO from DPO less that of DPO", 25),
        ("held-out pairs: accuracy, global less local", 100),
        ("held-out pairs: log-likelihood, global less local", np.log1p(np.exp(1)) - np.log1p(np.exp(-2))),
    ],
)
def test_every_claim_has_its_sign_and_scale(claim, estimate):
    finding = found()[claim]
    assert finding.interval.estimate == pytest.approx(estimate)
    assert (finding.direction, finding.bound, finding.control) == ("above", 0, False)


def test_what_is_drawn_anew_must_not_win_and_the_control_fails_if_it_does():
    claim = "gold: win rate of SFT, drawn anew less that of SFT"
    assert found()[claim].control
    assert found()[claim].passes
    for rate in (0.0, 1.0):
        assert not found(wins=WINS | {"sft": 0.5, AGAIN: rate})[claim].passes


def test_a_judge_who_is_swayed_by_the_order_fails_its_control():
    claim = "gold: wins of what is shown first"
    assert claim not in found(), "no bias was seen"
    for bias in (-1.0, 1.0):
        swayed = found(bias=bias)[claim]
        assert (swayed.control, swayed.passes, swayed.interval.estimate) == (True, False, bias)


def test_the_table_has_the_rate_the_nats_and_the_length_of_every_arm():
    rows = {row["arm"]: row for row in report.summary(tables()).iter_rows(named=True)}
    for arm, rate in WINS.items():
        assert rows[arm]["win_rate"] == pytest.approx(100 * rate)
        assert rows[arm]["log_ratio"] == pytest.approx(rate)
        assert (rows[arm]["tokens"], rows[arm]["undecided"]) == (7, 0)
