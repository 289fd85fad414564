"""Policies and reward models of every size against enumeration, and verdicts on made-up records."""

import itertools
import math

import polars as pl
import pytest

from experiments.kit.problems import task_of
from experiments.questions import h6a_model_sizes as h6a
from gvgap_jax import TokenTree
from gvgap_jax.sweep import load
from tests import helpers
from tests.helpers import as_table, exponential

TREE = TokenTree(3, 2)
of_records = pytest.mark.slow("h6a_model_sizes")


@pytest.fixture
def fits(records):
    """Records of the tiny grid."""
    return load(records("h6a_model_sizes"), "fits")


def of_marginals(law):
    """The law of independent tokens with the same law at each position: the best fit of a policy that looks at none."""
    marginals = [
        [sum(p for response, p in law.items() if response[place] == token) for token in range(3)] for place in (0, 1)
    ]
    return {response: math.prod(marginals[place][token] for place, token in enumerate(response)) for response in law}


@of_records
@pytest.mark.parametrize("policy_order", [0, 1])
def test_a_policy_of_each_size_writes_like_the_human_as_well_as_it_can(fits, policy_order):
    for row in fits.filter(policy_order=policy_order, verifier_order=1, informed=1).to_dicts():
        task, _, _ = task_of(row | {"beta": row["human_beta"]}, TREE)
        ((reward,), (reference,)) = (as_table(TREE, array).values() for array in (task.reward, task.reference))
        human = helpers.soft_optimal(exponential(reference), reward, row["human_beta"])
        law = of_marginals(human) if policy_order == 0 else human
        wins = sum(
            law[mine] * human[yours] * (1.0 if reward[mine] > reward[yours] else 0.5 if mine == yours else 0.0)
            for mine, yours in itertools.product(law, repeat=2)
        )
        assert row["gold_reward_first"] == pytest.approx(helpers.expectation(law, reward), abs=1e-3)
        assert row["win_rate_first"] == pytest.approx(wins, abs=1e-3)


@of_records
def test_labels_by_the_gold_reward_pay_and_coin_flips_teach_nothing(fits):
    informed, coins = (fits.filter(verifier_order=2, informed=value) for value in (1, 0))
    assert (informed["gold_reward_best"] > informed["gold_reward_first"] + 0.5).all()
    assert (informed["gold_reward_worst"] < informed["gold_reward_first"] - 0.5).all()
    assert (informed["held_out_loss"] < 0.6).all()
    assert coins["held_out_loss"].to_numpy() == pytest.approx(math.log(2), abs=0.01)


@of_records
def test_every_policy_is_picked_from_by_the_same_reward_model(fits):
    point = ["gold_order", "verifier_order", "informed", "seed"]
    same = fits.group_by(point).agg(pl.col("held_out_loss", "penalty").n_unique(), pl.len())
    assert (same["len"] == 2).all()
    assert (same["held_out_loss"] == 1).all()
    assert (same["penalty"] == 1).all()


def made_up(verifier_gain: float, coin: float = 0.0, seeds: int = 32) -> pl.DataFrame:
    """Win rate rises by 0.1 a step of the policy, by ``verifier_gain`` a step of the reward model."""
    rows = []
    for policy, verifier, gold, informed, seed in itertools.product((0, 1, 2), (2, 3), (2, 4), (1, 0), range(seeds)):
        noise = 1e-3 * (-1) ** seed
        rows.append(
            {
                "horizon": 4, "gold_order": gold, "pairs": 512, "policy_order": policy, "verifier_order": verifier,
                "seed": seed, "informed": informed,
                "win_rate_best": (0.2 + 0.1 * policy + verifier_gain * verifier) * (1 + 0.01 * seed) + noise,
                "gold_reward_best": coin + noise, "gold_reward_worst": -coin, "gold_reward_first": 0.5,
            }
        )  # fmt: skip
    return pl.DataFrame(rows)


def verdicts(records):
    return {finding.claim: finding for finding in h6a.findings({"fits": records})}


def test_findings_recover_known_gains():
    found = verdicts(made_up(verifier_gain=0.05))
    simple = "H=4, simple gold reward (order 2), 512 pairs: win rate"
    assert found[f"{simple}, largest policy less the smallest"].interval.estimate == pytest.approx(0.2 * 1.155)
    assert found[f"{simple}, largest reward model less the smallest"].verdict == "different: above"
    difference = found[f"{simple}, gain from the policy's size less the reward model's"]
    assert difference.interval.estimate == pytest.approx(0.15 * 1.155)
    assert difference.verdict == "supported"
    complex_gold = "H=4, complex gold reward (order 4), 512 pairs: win rate, largest reward model less the smallest"
    assert found[complex_gold].verdict == "supported"


def test_reward_models_that_gain_more_than_policies_contradict():
    found = verdicts(made_up(verifier_gain=0.3))
    claim = "512 pairs: win rate, gain from the policy's size less the reward model's"
    assert found[f"H=4, simple gold reward (order 2), {claim}"].verdict == "contradicted"


def test_control_sees_coin_flips_that_know_the_gold_reward():
    for leak, verdict in ((0.0, "equal within 0.5 reward"), (1.0, "different: above")):
        (control,) = (finding for finding in verdicts(made_up(0.0, leak)).values() if finding.control)
        assert control.verdict == verdict


def test_one_size_or_no_coins_leave_their_findings_out():
    claims = verdicts(made_up(0.05).filter(policy_order=1, informed=1))
    assert len(claims) == 2
    assert all("largest reward model" in claim for claim in claims)


def test_transformers_are_compared_by_width():
    widths = {"policy_order": "policy_width", "verifier_order": "verifier_width"}
    found = verdicts(made_up(verifier_gain=0.05).rename(widths))
    assert {claim: row.interval for claim, row in found.items()} == {
        claim: row.interval for claim, row in verdicts(made_up(verifier_gain=0.05)).items()
    }
    grid = h6a.TRANSFORMER_PRESETS["quick"].axes
    config = h6a.TransformerConfig(policy_width=grid["policy_width"][0], verifier_width=grid["verifier_width"][0])
    (cell,) = h6a.cells(config)
    assert cell.program[2:] == (cell.labels["policy_width"], cell.labels["verifier_width"])
    with pytest.raises(ValueError, match="width must be 2, 4, 8 or a multiple of 16, got 12"):
        h6a.TransformerConfig(verifier_width=12)


def test_nonsense_is_refused_and_impossible_points_are_left_out():
    for setting in ({"labels": "dice"}, {"policy_order": -1}, {"samples": 0}, {"human_beta": 0.0}, {"vocabulary": 1}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            h6a.Config(**setting)
    assert h6a.cells(h6a.Config(horizon=2, policy_order=2)) == []
