"""Distribution learning: draws and second stages against enumeration, rates and verdicts on made-up records."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.questions import rival_plateau
from gvgap_jax import TokenTree
from gvgap_jax.tasks import make_task

TREE = TokenTree(3, 1, prompt_length=1)


@pytest.fixture(scope="module")
def gold():
    return make_task(TREE, np.random.default_rng(1).normal(size=(3, 3)), beta=0.5)


def test_tally_counts_what_was_drawn_and_more_draws_contain_fewer():
    key, probabilities = jax.random.key(0), jnp.array([0.1, 0.6, 0.3])
    drawn = [int(np.sum(np.cumsum([0.1, 0.6, 0.3]) <= u)) for u in np.asarray(jax.random.uniform(key, (2000,)))]
    for draws in (50, 2000):
        found = rival_plateau.tally(key, probabilities, (jnp.arange(2000) < draws).astype(float))
        assert np.asarray(found).tolist() == [drawn[:draws].count(outcome) for outcome in range(3)]


def test_labelled_pairs_follow_the_targets_log_odds(gold):
    """P(y1 > y2) = sigmoid(gamma log pi*(y1)/pi*(y2)), counted."""
    train, held_out = rival_plateau.counted(jax.random.key(1), TREE, gold, 65536, 60000)
    assert float(jnp.sum(train.weight)) == 48000
    assert float(jnp.sum(held_out.pairs.weight)) == 12000
    times = np.asarray(train.weight).reshape(3, 3, 3)
    log_target = np.asarray(gold.optimal)
    for x, i, j in itertools.product(range(3), repeat=3):
        wins = 1 / (1 + math.exp(-0.5 * (log_target[x, i] - log_target[x, j])))
        total = times[x, i, j] + times[x, j, i]
        assert abs(times[x, i, j] / total - wins) < 4 * math.sqrt(0.25 / total)


def test_soft_labels_split_every_drawn_pair_by_its_probability(gold):
    soft = rival_plateau.soft_labels(jax.random.key(2), TREE, gold, 512, 100)
    weight, reward = np.asarray(soft.weight).reshape(3, 3, 3), np.asarray(gold.reward)
    assert weight.sum() == pytest.approx(100)
    for x, i, j in itertools.product(range(3), repeat=3):
        wins = 1 / (1 + math.exp(reward[x, j] - reward[x, i]))
        assert weight[x, i, j] == pytest.approx(wins * (weight[x, i, j] + weight[x, j, i]))


def test_forward_kl_fit_is_the_smoothed_frequency_and_converges(gold):
    none, many = (
        np.exp(rival_plateau.forward_kl_fit(jax.random.key(3), gold, 65536, samples)) for samples in (0, 65536)
    )
    np.testing.assert_allclose(none, 1 / 3)
    np.testing.assert_allclose(many, np.exp(gold.optimal), atol=0.02)


def test_the_target_lies_in_both_reward_classes():
    for small in (0, 1):
        task, features = rival_plateau.target(jax.random.key(4), TREE, 0.5, 2, small)
        columns = np.asarray(features).reshape(9, 9)
        assert np.linalg.matrix_rank(columns) == (2 if small else 9)
        fitted = columns @ np.linalg.lstsq(columns, np.asarray(task.reward).reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(fitted, np.asarray(task.reward).reshape(-1), atol=1e-9)


def made_up(floor: float):
    """KLs of 9/n over a table; d_eff 1 against 9 over features; a floor under the forward KL on a fixed sample."""
    rows, dimensions = [], []
    for rewards, small, seed in itertools.product(("table", "features"), (0, 1), range(32)):
        if (rewards == "features") != bool(small):
            continue
        gold = {"rewards": rewards, "vocabulary": 3, "gamma": 0.5, "dimension": 1, "small": small, "seed": seed}
        size = 1.0 if small else 9.0
        dimensions.append(gold | {"effective_dimension": size, "policy_dimension": 9.0})
        for arm, pairs in itertools.product(rival_plateau.ARMS, (64, 1024, 16384)):
            kl = (9.0 if arm == rival_plateau.ONE else size) / pairs + (floor if arm == rival_plateau.FIXED else 0.0)
            rows.append(gold | {"arm": arm, "pairs": pairs, "fixed": 512, "reverse_kl": kl * (1 + 1e-3 * seed)})
    return {"fits": pl.DataFrame(rows), "dimensions": pl.DataFrame(dimensions)}


def verdicts(records, words):
    return [finding.verdict for finding in rival_plateau.findings(records) if words in finding.claim]


def test_rates_and_ratios_recover_what_was_put_in():
    records = made_up(0.05)
    table = records["fits"].filter(rewards="table")
    assert rival_plateau.slope(table.filter(arm=rival_plateau.ONE)).at().estimate == pytest.approx(-1)
    last = records["fits"].filter(rewards="features", pairs=16384)
    assert rival_plateau.kl_ratio(last, rival_plateau.ONE, rival_plateau.REVERSE).at().estimate == pytest.approx(9)
    assert rival_plateau.over_prediction(last, records["dimensions"]).at().estimate == pytest.approx(1)


def test_a_plateau_is_seen_and_its_absence_too():
    assert verdicts(made_up(0.05), "(stops)") == ["supported"] * 2
    assert verdicts(made_up(0.0), "(stops)") == ["contradicted"] * 2
    assert verdicts(made_up(0.05), "a floor above") == ["supported"]
    assert verdicts(made_up(0.0), "a floor above") == ["contradicted"]


def test_the_control_breaks_where_equal_classes_part():
    records = made_up(0.05)
    assert verdicts(records, "equal classes") == ["supported"]
    apart = pl.when(pl.col("arm") == rival_plateau.ONE).then(1.1).otherwise(1.0)
    records["fits"] = records["fits"].with_columns(reverse_kl=pl.col("reverse_kl") * apart)
    assert verdicts(records, "equal classes") == ["contradicted"]


def test_one_number_of_pairs_has_no_slopes():
    records = made_up(0.05)
    records["fits"] = records["fits"].filter(pairs=64)
    assert not verdicts(records, "slope")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"gamma": 0.0}, "gamma must be positive"), ({"dimension": 101}, "at most 100"), ({"samples": 0}, "at least 1")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        rival_plateau.Config(**settings)
