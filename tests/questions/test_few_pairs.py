"""The law of few pairs beside fits: what is drawn anew, and shares of variance and of signs, by loops."""

import itertools
import math
import statistics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest

from experiments.questions import few_pairs as question
from experiments.questions import few_pairs_figures as figures
from experiments.questions import few_pairs_records as laws
from gvgap_jax import TokenTree, prediction, verifiers
from tests.questions.wiring import cells_of

REFERENCE, SEEDS, REPLICATES = 0.0, 18, (0, 1, 2)
TASK = {"horizon": 2, "beta": 1.0, "temperature": 1.0, "reference_scale": REFERENCE, "status": "ok"}
ARMS = (("DPO", 2), ("RLHF", 1), ("RLHF", 2))


def true_log(seed, gold, arm, order, pairs):
    """Made-up mean log regret of a setting: tasks differ, also in whether DPO is worse."""
    worse = 0.5 * (arm == "DPO") * (1 if pairs == 64 else -1) * (-1) ** seed
    return worse - 0.3 * order * (gold == 1) - math.log(pairs) / 2 + 0.2 * math.sin(seed)


def made_up(off=0.0, noise=0.1):
    """Records of fits that scatter around their settings' means, beside a law that is ``off`` by so much."""
    generator, tables = np.random.default_rng(0), {"fits": [], "predictions": [], "classes": []}
    for seed, gold in itertools.product(range(SEEDS), (1, 2)):
        here = TASK | {"seed": seed, "gold_order": gold}
        for order in (1, 2):
            known = {"order": order, "effective_dimension": 8.0 * order, "floor": 0.1, "reference_regret": 2.0}
            tables["classes"].append(here | known)
        for (arm, order), pairs in itertools.product(ARMS, (64, 256)):
            row, mean = here | {"arm": arm, "order": order, "pairs": pairs}, true_log(seed, gold, arm, order, pairs)
            tables["predictions"].append(row | {"typical": math.exp(mean + off), "trusted": seed != 3})
            tables["fits"] += [
                row | {"replicate": each, "regret": math.exp(mean + noise * generator.normal())} for each in REPLICATES
            ]
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}


def test_laws_stand_beside_the_fits_that_they_speak_of():
    for row in laws.beside(made_up()).iter_rows(named=True):
        setting = row["seed"], row["gold_order"], row["arm"], row["order"], row["pairs"]
        assert row["law"] == pytest.approx(true_log(*setting))
        leading = 8 * row["order"] / (2 * 0.8 * row["pairs"])
        assert row["leading"] == pytest.approx(math.log(leading))
        assert row["least"] == pytest.approx(math.log(min(2.0, 0.1 + leading)))


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_shares_of_variance_are_those_of_loops(off):
    fits = laws.beside(made_up(off))
    found = laws.explained(fits, laws.LAW)
    for seed, (explained, ceiling) in zip(found.seeds, found.values, strict=True):
        rows = fits.filter(seed=seed).to_dicts()
        whole = sum((row["log_regret"] - statistics.fmean(each["log_regret"] for each in rows)) ** 2 for row in rows)
        left = sum((row["log_regret"] - row["law"]) ** 2 for row in rows)
        noise = 0.0
        for key in {tuple(row[name] for name in laws.SETTING) for row in rows}:
            own = [row["log_regret"] for row in rows if tuple(row[name] for name in laws.SETTING) == key]
            noise += len(own) * statistics.variance(own)
        assert explained == pytest.approx(1 - left / whole)
        assert ceiling == pytest.approx(1 - noise / whole)
    share = laws.share_of_ceiling(fits, laws.LAW).at().estimate
    assert share == pytest.approx(np.mean(found.values[:, 0]) / np.mean(found.values[:, 1]))
    assert (abs(share - 1) < 0.01) == (off == 0)


def test_fits_that_did_not_converge_count_in_nothing():
    tables = made_up()
    failed = (pl.col("seed") == 2) & (pl.col("replicate") == 1) & (pl.col("arm") == "DPO")
    broken = tables["fits"].with_columns(
        status=pl.when(failed).then(pl.lit("not converged")).otherwise("status"),
        regret=pl.when(failed).then(1e6).otherwise("regret"),
    )
    whole, less = (laws.beside(tables | {"fits": fits}) for fits in (tables["fits"].filter(~failed), broken))
    for law in (laws.LAW, laws.TODAY):
        np.testing.assert_allclose(laws.explained(less, law).values, laws.explained(whole, law).values)
    assert np.isfinite(laws.share_of_signs(laws.signs(less), laws.LAW).sample.values).all()


def test_a_law_without_a_number_is_asked_of_the_others():
    """d_eff of full tables is beyond single precision for some skewed references."""
    tables = made_up()
    endless = pl.when(pl.col("order") == 2).then(float("inf")).otherwise("effective_dimension")
    status = pl.when(pl.col("order") == 2).then(pl.lit("not finite")).otherwise("status")
    fits = laws.beside(tables | {"classes": tables["classes"].with_columns(effective_dimension=endless, status=status)})
    of_order_1 = fits.filter(order=1)
    np.testing.assert_allclose(
        laws.explained(fits, laws.LEADING).values[:, 0], laws.explained(of_order_1, laws.LEADING).values[:, 0]
    )
    before = laws.explained(laws.beside(tables), laws.LAW).values
    np.testing.assert_allclose(laws.explained(fits, laws.LAW).values, before)


def test_signs_are_counted_by_loops():
    fits = laws.beside(made_up(noise=0.6))
    found = laws.share_of_signs(laws.signs(fits), laws.LAW).sample.values
    for seed, (right, ceiling) in enumerate(found):
        rows = {
            (row["gold_order"], row["arm"], row["order"], row["pairs"], row["replicate"]): row
            for row in fits.filter(seed=seed).to_dicts()
        }
        hits, majorities = [], []
        for gold, order, pairs in itertools.product((1, 2), (1, 2), (64, 256)):
            higher = []
            for each in REPLICATES:
                dpo, rlhf = rows[gold, "DPO", 2, pairs, each], rows[gold, "RLHF", order, pairs, each]
                higher.append(dpo["regret"] > rlhf["regret"])
                hits.append(higher[-1] == (dpo["law"] > rlhf["law"]))
            majorities.append(max(statistics.fmean(higher), 1 - statistics.fmean(higher)))
        assert right == pytest.approx(statistics.fmean(hits))
        assert ceiling == pytest.approx(statistics.fmean(majorities))


def test_the_control_has_the_predictions_of_the_next_seed():
    fits = laws.beside(made_up())
    other = laws.of_another_task(fits)
    assert other.height == fits.height
    for row in other.sample(50, seed=0).iter_rows(named=True):
        setting = row["gold_order"], row["arm"], row["order"], row["pairs"]
        assert row["law"] == pytest.approx(true_log((row["seed"] + 1) % SEEDS, *setting))
        assert row["regret"] == pytest.approx(math.exp(true_log(row["seed"], *setting)), rel=0.6)
    assert laws.lost_with_another_task(fits).at().low > 0


def test_verdicts_follow_from_the_law():
    def of(off):
        return {each.claim.split(": ")[1]: each.verdict for each in question.findings(made_up(off)) if not each.control}

    good, bad = of(0.0), of(0.5)
    assert set(good.values()) == {"supported"}
    assert any("contradicted" in verdict for verdict in bad.values())


def test_replicates_are_data_sets_of_one_task():
    first = [cell for cell in cells_of("few_pairs", replicate=0) if cell.table == "fits"]
    second = [cell for cell in cells_of("few_pairs", replicate=1) if cell.table == "fits"]
    for one, other in zip(first, second, strict=True):
        assert one.program == other.program
        rows = [question.run(one.program, cell.numbers | {"seed": 0}) for cell in (one, other, one)]
        assert rows[0]["regret"] == rows[2]["regret"]
        assert rows[0]["regret"] != rows[1]["regret"]
    others = [cell for cell in cells_of("few_pairs", replicate=1) if cell.table != "fits"]
    assert others == [cell for cell in cells_of("few_pairs", replicate=0) if cell.table != "fits"]


def test_predictions_are_of_the_pairs_that_are_fitted():
    """Four fifths, and the rest selects; DPO's class is all policies, RLHF's its reward models."""
    for cell in (cell for cell in cells_of("few_pairs") if cell.table == "predictions"):
        tree: TokenTree = cell.program.tree
        task, _, _ = question.task_of(cell.numbers | {"seed": 1}, tree)
        fitted = prediction.of_all_policies(tree, task.known)
        if cell.labels["arm"] == "RLHF":
            verifier = verifiers.interactions(tree, int(cell.numbers["order"]))
            fitted = prediction.of_verifier(verifier, verifier.init(jax.random.key(0)))
        pairs = jnp.array([float(cell.numbers["pairs"])])
        expected = prediction.predict(fitted, task, 0.8 * pairs, 0.2 * pairs)
        found = question.run(cell.program, cell.numbers | {"seed": 1})
        assert found["typical"] == pytest.approx(float(expected.typical[0]), rel=1e-6)
        assert found["expected"] == pytest.approx(float(expected.regret[0]), rel=1e-6)
        assert found["trusted"] == expected.trusted[0]


def test_figures_and_their_numbers():
    drawn = figures.draw(made_up(noise=0.2))
    drawn["few_pairs"].canvas.draw()
    axis = drawn["few_pairs"].axes[0]
    untrusted = [line for line in axis.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in untrusted) == 2 * 2 * len(ARMS)
    shown = [line for line in axis.lines if line.get_marker() in "os"]
    assert sum(len(line.get_xdata()) for line in shown) == (SEEDS - 1) * 2 * 2 * len(ARMS)
    plt.close(drawn["few_pairs"])
    variance = drawn["few_pairs_variance"].filter(fits="all").row(0, named=True)
    assert variance["law"] == pytest.approx(variance["ceiling"], abs=0.02)
    np.testing.assert_allclose(drawn["few_pairs_trusted"]["trusted"], (SEEDS - 1) / SEEDS)
