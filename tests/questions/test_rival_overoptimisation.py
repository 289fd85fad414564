"""Frontiers by enumeration, forms and declines recovered from made-up curves, and verdicts."""

import math

import jax
import numpy as np
import polars as pl
import pytest

from experiments.kit.backends import TRANSFORMER
from experiments.questions import rival_overoptimisation as experiment
from experiments.questions.rival_overoptimisation import Config
from tests import helpers

D = np.linspace(0.0, 2.0, 9)


def test_frontiers_are_sums_over_responses(tree, task, monkeypatch):
    """Best of two by every pair of samples, RL at one beta, on a proxy that is not the gold reward."""
    monkeypatch.setattr(experiment, "STRENGTHS", {"best-of-n": (2,), "RL": (0.5,)})
    noise = np.random.default_rng(1).normal(size=task.reward.shape)
    proxy = task.reward + noise
    found = jax.device_get(experiment.frontier(task, proxy))
    tables = [helpers.as_table(tree, each) for each in (task.reference, task.reward, proxy)]
    expected = dict.fromkeys(found, 0.0)
    for chance, prompt in zip(task.prompt_probs.tolist(), tables[0], strict=True):
        reference, gold, scores = helpers.exponential(tables[0][prompt]), tables[1][prompt], tables[2][prompt]
        laws = {
            "best-of-n 2": helpers.best_of_n(reference, scores, 2),
            "RL 0.5": helpers.soft_optimal(reference, scores, 0.5),
        }
        for name, law in laws.items():
            for label, reward in (("gold", gold), ("proxy", scores)):
                gain = helpers.expectation(law, reward) - helpers.expectation(reference, reward)
                expected[f"{name} {label}"] += chance * gain
            expected[f"{name} kl"] += chance * helpers.kl(law, reference)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("form", experiment.FORMS)
def test_each_form_explains_its_own_curve(form):
    """gold = d (2 - 0.5 d) and d (2 - 0.5 log d), written out; the other form leaves something."""
    gold = [0.0 if d == 0 else d * (2 - 0.5 * (d if form == "best-of-n" else math.log(d))) for d in D]
    (other,) = set(experiment.FORMS) - {form}
    assert experiment.explained(D, np.array(gold), form) == pytest.approx(1.0)
    assert experiment.explained(D, np.array(gold), other) < 0.999
    assert math.isnan(experiment.explained(D, np.array([*gold[:-1], np.nan]), form))


def test_a_decline_is_not_made_of_noise():
    """The peak is where the others have it: with no decline on average there is none in the mean, not one by luck."""
    noise = np.random.default_rng(0).normal(size=(4000, 6))
    assert abs(experiment.decline(noise).mean()) < 0.1
    assert (noise.max(1) - noise[:, -1]).mean() > 1.0
    np.testing.assert_allclose(experiment.decline(noise * 1e-6 + np.array([0, 1, 3, 2, 1, 1])), 2, atol=1e-4)
    with_gap = np.array([[0, 3, 1], [0, 3, 1], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(experiment.decline(with_gap), [2, 2, np.nan])


def test_rewards_are_compared_at_one_nat():
    nats = np.array([[0.25, 4.0], [0.0, 1.0], [0.0, 0.5]])
    gold = np.array([[0.0, 3.0], [1.0, 5.0], [0.0, 1.0]])
    np.testing.assert_allclose(experiment.at_matched_kl(nats, gold), [1.0, 5.0, np.nan])


def made_up(decline, simple, seeds=32):
    """Frontiers over d in [0, 2] that rise to 2 and decline; the simple verifier is ``simple`` higher at any d."""
    frontiers, offline, gold = [], [], []
    for seed in range(seeds):
        wobble = 1 + 0.01 * seed
        task = {"horizon": 4, "gold_order": 1, "reference_scale": 0.0, "seed": seed}
        for order in (1, 4):
            row = task | {"order": order, "pairs": 64, "status": "ok"}
            for method, strengths in experiment.STRENGTHS.items():
                for d, strength in zip(np.linspace(0, 2, len(strengths)), strengths, strict=True):
                    value = _rise(d, decline if order == 4 else 0.0, wobble) + (simple if order == 1 else 0) * d
                    row |= {f"{method} {strength:g} gold": value, f"{method} {strength:g} kl": d**2}
            frontiers.append(row)
        for d, beta in zip(np.linspace(0, 2, len(experiment.BETAS)), experiment.BETAS, strict=True):
            row = task | {"pairs": 64, "beta": beta, "kl": d**2, "gold": _rise(d, decline, wobble), "status": "ok"}
            offline.append(row)
        row = dict(task)
        for method, strengths in experiment.STRENGTHS.items():
            row |= {f"{method} {strength:g} gold": math.log(2 + index) for index, strength in enumerate(strengths)}
        gold.append(row)
    return {name: pl.DataFrame(rows) for name, rows in (("frontiers", frontiers), ("dpo", offline), ("gold", gold))}


def _rise(d, decline, wobble):
    return wobble * (min(d, 1.5) - max(d - 1.5, 0) * decline)


def verdict(tables, *words):
    found = {f.verdict for f in experiment.findings(tables) if all(word in f.claim for word in words)}
    assert len(found) == 1
    return found.pop()


def test_a_gap_that_is_over_optimisation_is_not_there_at_matched_kl():
    tables = made_up(decline=1.0, simple=0.0)
    assert verdict(tables, "full-table verifier, RL: gold reward where") == "supported"
    assert verdict(tables, "how much more") == "supported"
    assert verdict(tables, "over-optimisation says is 0") == "undecided"
    assert verdict(tables, "simplicity says is 0") == "equal within 0.1 reward"


def test_a_better_verifier_is_better_at_matched_kl():
    tables = made_up(decline=0.0, simple=0.3)
    assert verdict(tables, "over-optimisation says is 0") == "supported"
    assert verdict(tables, "how much more") == "undecided"
    assert verdict(tables, "full-table verifier, RL: gold reward where") == "contradicted"


def test_the_control_sees_a_gold_reward_that_falls():
    tables = made_up(decline=1.0, simple=0.0)
    assert verdict(tables, "its own proxy") == "supported"
    tables["gold"] = tables["gold"].with_columns(pl.lit(0.0).alias(f"RL {experiment.BETAS[-1]:g} gold"))
    assert verdict(tables, "its own proxy") == "contradicted"


@pytest.mark.parametrize("keep", [1, 4])
def test_findings_of_part_of_the_grid(keep):
    tables = made_up(1.0, 0.3)
    tables["frontiers"] = tables["frontiers"].filter(order=keep)
    assert any(finding.control for finding in experiment.findings(tables))


def test_points_that_did_not_converge_are_failed_seeds():
    tables = made_up(1.0, 0.3)
    tables["frontiers"] = tables["frontiers"].with_columns(
        status=pl.when(pl.col("seed") == 0).then(pl.lit("not converged")).otherwise("status")
    )
    tables["dpo"] = tables["dpo"].with_columns(
        status=pl.when(pl.col("seed") == 0).then(pl.lit("not converged")).otherwise("status")
    )
    for finding in experiment.findings(tables):
        assert (finding.interval.seeds, finding.interval.failed) == ((32, 0) if finding.control else (31, 1))


def test_on_transformers_the_rich_verifier_has_the_policys_backbone():
    made = experiment.cells(Config(), TRANSFORMER)
    frontiers = [(cell.labels["arm"], cell.numbers["order"]) for cell in made if cell.table == "frontiers"]
    assert frontiers == [("RLHF", 1), (experiment.BACKBONE, 4)]
    betas = [cell.numbers["beta"] for cell in made if cell.table == "dpo"]
    assert betas == [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125]
    alone = [cell.labels["arm"] for cell in experiment.cells(Config(gold_order=4), TRANSFORMER) if "arm" in cell.labels]
    assert alone == [experiment.BACKBONE]
    tables = made_up(decline=1.0, simple=0.3)
    rich = pl.when(order=4).then(pl.lit(experiment.BACKBONE)).otherwise(pl.lit("RLHF"))
    tables["frontiers"] = tables["frontiers"].with_columns(arm=rich)
    claims = [finding.claim for finding in experiment.findings(tables)]
    assert not any("full-table" in claim for claim in claims)
    assert sum("same backbone verifier" in claim for claim in claims) == 6
    assert verdict(tables, "same backbone verifier, RL: gold reward where") == "supported"


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="gold_order must be at least 1"):
        Config(gold_order=0)
    with pytest.raises(ValueError, match="reference_scale must be at least 0"):
        Config(reference_scale=-1.0)
    assert experiment.cells(Config(gold_order=5)) == []
    labels = [cell.table for cell in experiment.cells(Config())]
    assert [labels.count(name) for name in ("gold", "frontiers", "dpo")] == [1, 2, len(experiment.BETAS)]
