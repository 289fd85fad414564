"""Sparse rewards: supports against plain numpy, statistics and verdicts on made-up records."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.kit.backends import TRANSFORMER
from experiments.questions import rival_sparse
from gvgap_jax import TokenTree, tasks
from gvgap_jax.features import interaction_basis


def test_the_support_of_a_gold_reward_by_plain_regression():
    tree = TokenTree(2, 3)
    features, _ = interaction_basis(tree, 3)
    for terms in (1, 4, 7):
        reward = tasks.sparse(jax.random.key(terms), tree, terms).reward
        coefficients, *_ = np.linalg.lstsq(features[0], np.asarray(reward)[0], rcond=None)
        found = np.asarray(rival_sparse.support(jnp.asarray(features), reward))
        assert found.tolist() == (np.abs(coefficients) > 0.1).astype(float).tolist()
        assert found.sum() == terms


def test_nested_supports_keep_the_largest():
    coefficients = [0.5, -3.0, 0.0, 2.0, -1.0]
    sizes = rival_sparse.support_sizes(5)
    assert sizes == (1, 2, 4, 5)
    nested = np.asarray(rival_sparse.nested_supports(jnp.array(coefficients), sizes))
    for row, size in zip(nested, sizes, strict=True):
        largest = sorted(range(5), key=lambda index: -abs(coefficients[index]))[:size]
        assert np.flatnonzero(row).tolist() == sorted(largest)


PRICES = {64: 3.0, 1024: 0.5}  # what the search costs, in units of terms ln(7/terms) / n


def made_up(prices=PRICES, advantage=8.0):
    """Records of 32 seeds with d = 7: known support at d_eff/(2n), DPO and dense ``advantage`` times worse."""
    fits, dimensions = [], []
    for terms, seed in itertools.product((2, 7), range(32)):
        size = terms * (1 + 0.1 * seed)
        shared = {"terms": terms, "beta": 1.0, "horizon": 3, "seed": seed}
        dimensions += [shared | {"known": known, "effective_dimension": size * (1 if known else 9)} for known in (0, 1)]
        for pairs in prices:
            known = size / (1.6 * pairs)
            search = prices[pairs] * terms * np.log(7 / terms) / (0.8 * pairs)
            worse = known * advantage if terms < 7 else known
            regrets = {"DPO": worse, "dense": worse, "sparse": known + search, "known": known}
            numbers = shared | {"interactions": 7, "pairs": pairs}
            fits += [numbers | {"arm": arm, "regret": regret} for arm, regret in regrets.items()]
    return {"fits": pl.DataFrame(fits), "dimensions": pl.DataFrame(dimensions)}


def test_statistics_recover_what_was_put_in():
    records = made_up()
    fits = records["fits"].filter(terms=2)
    for pairs, price in PRICES.items():
        np.testing.assert_allclose(rival_sparse.search_price(fits.filter(pairs=pairs)).values, price)
    assert rival_sparse.regret_ratio(fits, "DPO", "known").at().estimate == pytest.approx(8.0)
    assert rival_sparse.over_prediction(fits, records["dimensions"]).at().estimate == pytest.approx(1.0)
    table = rival_sparse.arms(fits, "known", "dense").select(rival_sparse.log_gap("known"))
    np.testing.assert_allclose(table.to_series(), -np.log(8.0))


def verdict(records, words):
    found = [finding for finding in rival_sparse.findings(records) if words in finding.claim]
    assert len(found) == 1, [finding.claim for finding in found]
    return found[0].verdict


def test_a_price_that_is_paid_once_is_told_from_one_that_is_not():
    words = "in units of terms ln(d/terms)/n"
    rising = made_up({64: 0.5, 1024: 3.0})
    assert verdict(made_up(), words) == "supported"
    assert verdict(rising, words) == "contradicted"


def test_sparsity_that_does_not_help_is_seen():
    words = "2 of 7 terms, 1,024 pairs: regret (KL to the optimal policy) of DPO over sparse"
    assert verdict(made_up(), words) == "supported"
    assert verdict(made_up(advantage=1.0), words) == "contradicted"


def test_controls_pass_and_break_where_sparse_is_not_dense():
    records = made_up()
    controls = [finding for finding in rival_sparse.findings(records) if finding.control]
    assert len(controls) == 2
    assert all(finding.passes for finding in controls)
    broken = pl.when(pl.col("arm") == "sparse").then(1.5 * pl.col("regret")).otherwise(pl.col("regret"))
    records["fits"] = records["fits"].with_columns(regret=broken)
    assert verdict(records, "largest |log of sparse over dense") == "contradicted"


def test_on_transformers_an_arm_has_the_policys_own_backbone():
    made = rival_sparse.cells(rival_sparse.Config(), TRANSFORMER)
    assert [cell.labels["arm"] for cell in made if cell.table == "fits"] == [*rival_sparse.ARMS, "backbone"]
    records = made_up()
    dense = records["fits"].filter(arm="dense")
    worse = dense.with_columns(arm=pl.lit("backbone"), regret=2.0 * pl.col("regret"))
    records["fits"] = pl.concat([records["fits"], worse])
    assert verdict(records, "policy's own backbone") == "different: below"
    assert verdict(records, "of DPO over dense RLHF") == "equal within a factor of 1.25"


def test_a_grid_of_one_point_has_findings():
    records = made_up()
    records["fits"] = records["fits"].filter(terms=2, pairs=64)
    assert len(rival_sparse.findings(records)) == 4


def test_more_terms_than_interactions_are_left_out_and_none_refused():
    assert rival_sparse.cells(rival_sparse.Config(horizon=3, terms=8)) == []
    with pytest.raises(ValueError, match="terms must be at least 1"):
        rival_sparse.Config(terms=0)
