"""Priors of implicit rewards: geometries against plain averages, two methods in one prior, and verdicts."""

import itertools

import jax
import numpy as np
import polars as pl
import pytest

from experiments.questions import prior_geometry as question
from experiments.questions import prior_geometry_records as arms
from gvgap_jax import TokenTree, algorithms, prediction
from gvgap_jax.features import interaction_basis
from gvgap_jax.sweep import load
from tests.questions.test_switches import SPREAD, regret, soft, tabular
from tests.questions.wiring import cells_of, wired

TREE = TokenTree(3, 3)
KEY = jax.random.key(7)


def reward_of(params, decay, powers=99, order=3, turned=0):
    """Rewards of all responses, as an array with an axis a token."""
    verifier = question.rewards(KEY, TREE, decay, powers, order, turned)
    return np.asarray(verifier.leaf_scores(params)).reshape(3, 3, 3)


def of_degree(reward):
    """Mean square of what a reward owes to each number of positions read together, by averages over the others."""

    def owed(positions):
        total = 0.0
        for size in range(len(positions) + 1):
            for kept in itertools.combinations(positions, size):
                others = tuple(axis for axis in range(3) if axis not in kept)
                total = total + (-1) ** (len(positions) - size) * reward.mean(axis=others, keepdims=True)
        return np.mean(np.broadcast_to(total, reward.shape) ** 2)

    return np.array([sum(owed(each) for each in itertools.combinations(range(3), size)) for size in (1, 2, 3)])


@pytest.mark.parametrize(
    ("decay", "powers", "scales"),
    [(1.0, 99, [1, 1, 1]), (0.5, 99, [1, 1 / 2, 1 / 4]), (0.125, 99, [1, 1 / 8, 1 / 64]), (0.25, 1, [1, 1 / 4, 1 / 4])],
    ids=["flat", "degree", "steep degree", "token sums"],
)
def test_a_plain_ridge_is_the_ridge_of_the_geometry(decay, powers, scales):
    params = np.random.default_rng(0).normal(size=26)
    reward = reward_of(params, decay, powers)
    assert np.sum(params**2) == pytest.approx(np.sum(of_degree(reward) / np.square(scales)))
    assert abs(reward.mean()) < 1e-12


def test_a_flat_ridge_is_one_on_the_rewards_of_responses():
    params = np.random.default_rng(1).normal(size=26)
    assert np.sum(params**2) == pytest.approx(np.sum(reward_of(params, 1.0) ** 2) / 27)


def covariance(**prior):
    """Prior covariance of the rewards of all responses, for normal parameters of variance 1."""
    columns = np.stack([reward_of(unit, **prior).reshape(-1) for unit in np.eye(26)], axis=-1)
    return columns @ columns.T


def test_random_features_have_the_spectrum_and_know_no_tokens():
    degree, turned = covariance(decay=0.25), covariance(decay=0.25, turned=1)
    np.testing.assert_allclose(np.linalg.eigvalsh(turned), np.linalg.eigvalsh(degree), atol=1e-9)
    sums = np.linalg.eigh(covariance(decay=0.0))[1][:, -6:]
    shares = [np.trace(sums.T @ each @ sums) / np.trace(each) for each in (degree, turned)]
    assert shares[0] == pytest.approx(6 / (6 + 12 / 16 + 8 / 256))
    assert shares[1] < 0.5
    np.testing.assert_allclose(covariance(decay=1.0, turned=1), covariance(decay=1.0), atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_the_limit_is_a_restriction(order):
    params = np.random.default_rng(2).normal(size=26)
    steep = reward_of(params, 0.0) if order == 1 else reward_of(params, 1.0, order=2)
    assert np.max(of_degree(steep)[order:]) < 1e-12
    assert of_degree(steep)[0] == pytest.approx(np.sum(params[:6] ** 2))
    nearly = reward_of(params, 1e-6)
    np.testing.assert_allclose(nearly, reward_of(params, 0.0), atol=1e-4)


CELL = {"seed": 0, "gold_order": 1, "pairs": 200, "beta": 1.3, "temperature": 0.8, "reference_scale": 0.5}


def predicted(coordinates, decays, order, tree=TREE):
    return question.run(question.Law(coordinates, tree, decays), CELL | {"order": order})


def by_the_law(fitted, tree=TREE, penalties=algorithms.PENALTIES):
    task, _, _ = question.task_of(CELL, tree)
    return prediction.predict(fitted, task, np.array([160.0]), np.array([40.0]), penalties)


@pytest.mark.parametrize(("decay", "order"), [(1.0, 3), (0.25, 3), (1.0, 2)], ids=["flat", "degree", "of order 2"])
def test_theory_is_asked_of_the_ridge_that_is_fitted(decay, order):
    """In coordinates in which the geometry's ridge is a plain one, as fits have it, the law says the same."""
    fitted = prediction.of_verifier(question.rewards(KEY, TREE, decay, 99, order, 0), np.zeros(26))
    told, expected = predicted(arms.INTERACTIONS, (decay,), order), by_the_law(fitted)
    assert told["typical"] == pytest.approx(float(expected.typical[0]), rel=1e-4)
    assert told["regret"] == pytest.approx(float(expected.regret[0]), rel=1e-4)
    assert told["trusted"]


def test_theory_chooses_among_decays_too():
    features, degrees = interaction_basis(TREE, 3)
    ridges = [
        [penalty / decay ** (2 * (degree - 1)) for degree in degrees.tolist()]
        for decay in (1.0, 1 / 16)
        for penalty in algorithms.PENALTIES
    ]
    told = predicted(arms.INTERACTIONS, (1.0, 1 / 16), 3)
    expected = by_the_law(prediction.of_features(features), penalties=np.array(ridges))
    assert told["typical"] == pytest.approx(float(expected.typical[0]), rel=1e-6)
    steep, flat = (float(predicted(arms.INTERACTIONS, (decay,), 3)["typical"]) for decay in (1 / 16, 1.0))
    assert 0.95 * steep < float(told["typical"]) < 1.5 * steep < flat
    assert told["trusted"]


def test_theory_of_the_usual_ridge_is_of_logits():
    """Those of one token are the rewards of responses, on which a flat ridge weighs as their mean square."""
    tree = TokenTree(3, 1)
    features, _ = interaction_basis(tree, 1)
    flat = by_the_law(prediction.of_features(features), tree, tuple(3 * each for each in algorithms.PENALTIES))
    assert predicted(arms.USUAL, (1.0,), 1, tree)["typical"] == pytest.approx(float(flat.typical[0]), rel=0.1)


@pytest.mark.parametrize("method", ["DPO", "RLHF"])
def test_an_arm_is_judged_where_it_ended(method):
    seen = set()
    for cell in (cell for cell in cells_of("prior_geometry") if cell.labels.get("method") == method):
        if cell.table != "fits":
            continue
        row = wired("prior_geometry", cell, **SPREAD)
        (fit,) = row.fits
        tree, numbers = cell.program.tree, cell.numbers
        if cell.labels["geometry"] == arms.USUAL:
            ended = tabular(tree, fit)
        else:
            _, _, key = question.task_of({**numbers, "seed": 0}, tree)
            turn, _ = jax.random.split(key)
            prior = {name: numbers[name] for name in ("decay", "powers", "order", "turned")}
            ended = soft(question.rewards(turn, tree, **prior).leaf_scores(fit["params"]), fit["known"])
        assert row.records["regret"] == pytest.approx(regret(ended, row, fit["known"]))
        assert row.records["penalty"] == 1
        seen.add((cell.labels["geometry"], numbers["decay"], numbers["order"]))
    assert len(seen) == {"DPO": 1 + 6 + 5 + 5, "RLHF": 5 + 1}[method]


def test_two_methods_end_together_in_one_prior_and_at_its_limit(records):
    fits = load(records("prior_geometry"), "fits")
    for finding in arms.equalities(fits):
        assert finding.estimate.sample.rows > 0
        assert np.nanmax(finding.estimate.sample.values) < 1e-4, finding.claim
    degree = fits.filter(method="DPO", geometry=arms.DEGREE)
    apart = arms._equal("", degree.filter(decay=1.0), degree.filter(decay=0.25), ())
    assert np.nanmin(apart.estimate.sample.values) > 0.01


def level(method, geometry, decay, order, gold):
    """Log regret of a made-up fit: with gold order 1 of 2 a degree ridge closes three quarters of a gap of 2 nats."""
    if decay == 0 or order == 1:
        return -2.0 if gold == 1 else 1.0
    if geometry == arms.USUAL:
        return 0.0
    bends = {arms.DEGREE: -1.5, arms.TOKENS: -1.0, arms.RANDOM: -0.3}
    return -0.2 if decay == 1 or gold == 2 else bends[geometry] if decay == 0.25 else 1.0


def made_up(changed=None, seeds=18):
    """Fits of gold orders 1 and 2 with uniform and random references; held-out losses choose a decay of 1/4 or 1."""
    settings = [("DPO", arms.USUAL, 1.0, 2), ("DPO", arms.DEGREE, 0.0, 2)]
    settings += itertools.product(["DPO"], [arms.DEGREE, arms.TOKENS, arms.RANDOM], (1.0, 0.25, 0.125), [2])
    settings += [("RLHF", arms.DEGREE, decay, 2) for decay in (1.0, 0.25, 0.125)] + [("RLHF", arms.DEGREE, 1.0, 1)]
    fits, random = [], np.random.default_rng(3)
    for gold, scale, seed in itertools.product((1, 2), (0.0, 1.5), range(seeds)):
        noise = random.normal(scale=0.01)
        for each in settings:
            log_regret = (changed or {}).get(each[1:3], level(*each, gold))
            held_out = np.exp(level(*each, gold))
            fits.append(
                dict(zip(("method", "geometry", "decay", "order"), each, strict=True))
                | {"horizon": 2, "gold_order": gold, "reference_scale": scale, "pairs": 512, "seed": seed}
                | {"regret": np.exp(log_regret + noise), "held_out_loss": held_out, "penalty": 1.0, "status": "ok"}
            )
    return pl.DataFrame(fits)


THEORY = {arms.DPO_USUAL: 0.0, arms.DPO_FLAT: -0.1, arms.DPO_DEGREE: -1.8, arms.RLHF_GOLD: -2.0}


def law(untrusted=()):
    """What theory predicts of four arms, as log regrets; of some seeds it does not know."""
    data = made_up().select(arms.DATA).unique().to_dicts()
    rows = [
        {**each, "arm": arm, "typical": float(np.exp(9.0 if each["seed"] in untrusted else value)), "regret": 7.0}
        | {"trusted": each["seed"] not in untrusted, "status": "ok"}
        for each, (arm, value) in itertools.product(data, THEORY.items())
    ]
    return pl.DataFrame(rows)


def findings_of(fits, predictions=None):
    return question.findings({"fits": fits, "predictions": law() if predictions is None else predictions})


def found(fits, words, gold=1, reference="uniform reference", predictions=None):
    where = f"{reference}, gold order {gold} of 2, 512 pairs"
    rows = [row for row in findings_of(fits, predictions) if row.claim.startswith(where) and words in row.claim]
    assert len(rows) == 1, [row.claim for row in rows]
    return rows[0]


RATIOS = {
    f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}": (1.5, "supported"),
    f"{arms.DPO_DEGREE} over {arms.RLHF_GOLD}": (0.5, "different: above"),
    f"{arms.RLHF_ORDER} over {arms.DPO_DEGREE}": (-0.5, "different: below"),
    f"{arms.DPO_FLAT} over {arms.DPO_DEGREE}": (1.3, "supported"),
    f"{arms.DPO_TOKENS} over {arms.DPO_DEGREE}": (0.5, "different: above"),
    f"{arms.DPO_RANDOM} of the same spectrum over {arms.DPO_FLAT}": (-0.1, "supported"),
}


@pytest.mark.parametrize("reference", ["uniform reference", "reference of s.d. 1.5"])
def test_ratios_are_what_was_put_in(reference):
    fits = made_up()
    for words, (log_ratio, verdict) in RATIOS.items():
        finding = found(fits, words, reference=reference)
        assert finding.interval.estimate == pytest.approx(np.exp(log_ratio)), words
        assert finding.verdict == verdict
    share = found(fits, "share of the log gap", reference=reference)
    assert share.interval.estimate == pytest.approx(0.75)
    assert share.verdict == "supported"


@pytest.mark.parametrize("untrusted", [(), (0, 5)], ids=["all", "but two seeds"])
def test_theory_stands_beside_what_it_speaks_of_where_it_trusts_itself(untrusted):
    fits, predictions = made_up(), law(untrusted)
    words = {f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}": np.exp(1.8), "share of the log gap": 0.9}
    words |= {f"{arms.DPO_DEGREE} over {arms.RLHF_GOLD}": np.exp(0.2), f"{arms.DPO_FLAT} over": np.exp(1.7)}
    for part, value in words.items():
        assert found(fits, part, predictions=predictions).predicted == pytest.approx(value), part
    assert np.isnan(found(fits, f"{arms.DPO_TOKENS} over", predictions=predictions).predicted)


def test_a_full_table_gold_reward_has_no_gap_to_close():
    fits = made_up()
    assert found(fits, f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}", gold=2).verdict == "equal within a factor of 1.25"
    assert not [row.claim for row in findings_of(fits) if "share" in row.claim and "order 2" in row.claim]


def test_a_gap_that_stays_open_is_seen():
    fits = made_up({(arms.DEGREE, 0.25): -0.4})
    assert found(fits, "share of the log gap").verdict == "contradicted"
    fits = made_up({(arms.DEGREE, 0.25): 0.5})
    assert found(fits, f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}").verdict == "contradicted"


def test_held_out_pairs_choose_and_not_the_regret():
    fits = made_up({(arms.DEGREE, 0.125): -9.0, (arms.DEGREE, 0.0): -9.0})
    ratio = found(fits, f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}")
    assert ratio.interval.estimate == pytest.approx(np.exp(1.5))
    tied = fits.with_columns(held_out_loss=1.0)
    assert set(arms.chosen(tied).filter(arm=arms.DPO_DEGREE)["decay"]) == {1.0}


def test_a_candidate_that_did_not_converge_excludes_its_data_set():
    fits = made_up()
    lost = (pl.col("seed") == 3) & (pl.col("decay") == 0.125) & (pl.col("geometry") == arms.DEGREE)
    fits = fits.with_columns(status=pl.when(lost).then(pl.lit("not converged")).otherwise("status"))
    assert found(fits, f"{arms.DPO_USUAL} over {arms.DPO_DEGREE}").interval.seeds == 17
    assert found(fits, f"{arms.DPO_TOKENS} over {arms.DPO_DEGREE}").interval.seeds == 17
    assert found(fits, f"{arms.DPO_RANDOM} of the same spectrum").interval.seeds == 18


def test_there_is_no_point_beyond_the_horizon_and_bad_settings_are_refused():
    assert question.cells(question.Config(horizon=3, gold_order=4)) == []
    with pytest.raises(ValueError, match="gold_order must be at least 1"):
        question.Config(gold_order=0)
