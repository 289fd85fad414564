"""Withheld responses: what pairs mention, mass by plain loops, and verdicts on made-up records."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.kit.backends import TRANSFORMER
from experiments.questions import rival_coverage as experiment
from experiments.questions.rival_coverage import Config
from gvgap_jax import TokenTree, preferences

TREE = TokenTree(3, 2, prompt_length=1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_hole_has_its_share_of_every_prompt(share):
    hole = experiment.random_hole(jax.random.key(0), TREE, jnp.asarray(share))
    assert hole.sum(-1).tolist() == [round(share * 9)] * 3
    if share:
        assert not (hole[0] == hole[1]).all()


def test_no_pair_mentions_what_is_withheld(task):
    """Not in 4,000 pairs, although a log-probability of minus infinity stands in the law they are drawn from."""
    hole = experiment.random_hole(jax.random.key(1), TREE, jnp.asarray(0.6))
    law = experiment.covered(task.reference, hole)
    for row, hidden, reference in zip(law.tolist(), hole.tolist(), task.reference.tolist(), strict=True):
        kept = sum(math.exp(value) for value, gone in zip(reference, hidden, strict=True) if not gone)
        expected = [0 if gone else math.exp(value) / kept for value, gone in zip(reference, hidden, strict=True)]
        np.testing.assert_allclose([math.exp(value) for value in row], expected, atol=1e-12)
    pairs = preferences.sample(jax.random.key(2), TREE, task, 4000, law)
    assert np.isfinite(pairs.reference_margin).all()
    for side in (pairs.chosen, pairs.rejected):
        assert not TREE.at(hole, pairs.prompts, side).any()
        assert len(np.unique(3 * 3 * 3 * pairs.prompts[:, 0] + 3 * side[:, 0] + side[:, 1])) > 3
    everything = preferences.sample(jax.random.key(2), TREE, task, 4000)
    assert TREE.at(hole, everything.prompts, everything.chosen).any()


def test_mass_in_the_hole_is_a_sum_over_its_responses(task):
    hole = experiment.random_hole(jax.random.key(1), TREE, jnp.asarray(0.3))
    expected = 0.0
    for chance, row, hidden in zip(*(x.tolist() for x in (task.prompt_probs, task.optimal, hole)), strict=True):
        expected += chance * sum(math.exp(value) for value, inside in zip(row, hidden, strict=True) if inside)
    assert float(experiment.mass_in(hole, task.optimal, task)) == pytest.approx(expected)


def made_up(excess, regrets, seeds=32):
    """Excess mass of DPO times the share withheld, and the regret of each arm as a function of that share."""
    rows = []
    for seed, share, penalty in itertools.product(range(seeds), (0.0, 0.1, 0.6), experiment.PENALTIES):
        for arm, (method, order) in {"DPO": ("DPO", 4), "table": ("RLHF", 4), "simple": ("RLHF", 1)}.items():
            offset = 0.001 * (seed - (seeds - 1) / 2)
            rows.append(
                {"seed": seed, "unseen": share, "penalties": penalty, "method": method, "order": order, "horizon": 4}
                | {"gold_order": 1}
                | {"pairs": 64, "status": "ok", "regret": regrets[arm](share) * (1 + 0.01 * seed)}
                | {"hole_mass": share + offset + (excess * share if arm == "DPO" else 0), "optimal_hole_mass": share}
            )
    return {"fits": pl.DataFrame(rows)}


def verdict(tables, *words):
    found = {f.verdict for f in experiment.findings(tables) if all(word in f.claim for word in words)}
    assert len(found) == 1
    return found.pop()


def test_a_gap_of_coverage_needs_a_hole():
    regrets = {"DPO": lambda share: 0.1 + share, "table": lambda share: 0.1, "simple": lambda share: 0.1}
    tables = made_up(0.5, regrets)
    assert verdict(tables, "coverage says is 0") == "undecided"
    assert verdict(tables, "coverage says is above 0") == "supported"
    assert verdict(tables, "how much wider") == "supported"
    assert verdict(tables, "no pair mentions") == "supported"
    assert verdict(tables, "excess mass of DPO") == "supported"
    assert {f.verdict for f in experiment.findings(tables) if f.control} == {"equal within 0.1"}


def test_a_gap_of_simple_verifiers_needs_none():
    regrets = {"DPO": lambda share: 0.5 + share, "table": lambda share: 0.5 + share, "simple": lambda share: 0.1}
    tables = made_up(0.0, regrets)
    assert verdict(tables, "coverage says is 0") == "supported"
    assert verdict(tables, "coverage says is above 0") == "undecided"
    assert verdict(tables, "reach what was withheld") == "supported"
    assert verdict(tables, "no pair mentions") == "undecided"


def test_mass_that_moves_without_a_hole_is_seen():
    tables = made_up(0.0, dict.fromkeys(("DPO", "table", "simple"), lambda share: 0.1))
    shifted = pl.col("hole_mass") + 0.2 * ((pl.col("method") == "DPO") & (pl.col("unseen") == 0))
    tables["fits"] = tables["fits"].with_columns(hole_mass=shifted)
    assert {f.verdict for f in experiment.findings(tables) if f.control} == {"different: above"}


@pytest.mark.parametrize("keep", [pl.col("unseen") == 0, pl.col("unseen") == 0.6, pl.col("penalties") == "chosen"])
def test_findings_of_part_of_the_grid(keep):
    tables = made_up(0.5, dict.fromkeys(("DPO", "table", "simple"), lambda share: 0.1))
    found = experiment.findings({"fits": tables["fits"].filter(keep)})
    assert found
    assert not any(finding.interval.failed for finding in found)


def test_a_gold_reward_as_complex_as_a_policy_has_no_simple_verifier():
    tables = made_up(0.5, dict.fromkeys(("DPO", "table", "simple"), lambda share: 0.1))
    tables["fits"] = tables["fits"].filter(order=4).with_columns(gold_order=4)
    claims = [finding.claim for finding in experiment.findings(tables)]
    assert claims
    assert not any("simple" in claim for claim in claims)


def on_networks(tables):
    """The same records with a reward model of the policy's backbone in the place of full tables, stopped early."""
    rich = (pl.col("method") == "RLHF") & (pl.col("order") == pl.col("horizon"))
    method = pl.when(rich).then(pl.lit(experiment.BACKBONE)).otherwise("method")
    chosen = tables["fits"].filter(penalties="chosen")
    return {"fits": chosen.with_columns(method=method, penalties=pl.lit(experiment.STOPPED))}


def test_on_transformers_the_policys_backbone_is_in_the_place_of_full_tables():
    regrets = {"DPO": lambda share: 0.5 + share, "table": lambda share: 0.1 + share, "simple": lambda share: 0.1}
    tables = on_networks(made_up(0.5, regrets))
    assert verdict(tables, "early stopping", "no pair mentions") == "supported"
    assert verdict(tables, "early stopping: mass of DPO there", "own backbone") == "supported"
    assert verdict(tables, "early stopping: excess mass of DPO with 60% withheld") == "supported"
    assert verdict(tables, "DPO - RLHF with reward models of the policy's own backbone") == "supported"
    assert verdict(tables, "own backbone - with simple verifiers") == "supported"
    assert {f.verdict for f in experiment.findings(tables) if f.control} == {"equal within 0.1"}
    assert not any("full table" in f.claim or "penalty" in f.claim for f in experiment.findings(tables))


def test_cells_on_transformers_are_stopped_early_and_have_one_rich_reward_model():
    made = experiment.cells(Config(), TRANSFORMER)
    told = [(cell.labels["method"], cell.numbers["order"]) for cell in made]
    assert told == [("DPO", 4), ("RLHF", 1), (experiment.BACKBONE, 4)]
    assert {cell.labels["penalties"] for cell in made} == {experiment.STOPPED}


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="leave two responses of 81"):
        Config(unseen=0.99)
    with pytest.raises(ValueError, match="at least 0"):
        Config(unseen=-0.1)
    assert experiment.cells(Config(gold_order=5)) == []
