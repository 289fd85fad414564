"""Held-out likelihood and ranks against enumeration; verdicts on made-up records."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.questions import h5_generalisation as h5
from experiments.questions import h5_generalisation_sizes as sizes
from gvgap_jax import TokenTree, complexity, policies, verifiers
from tests import helpers
from tests.helpers import as_table, exponential


@pytest.fixture(scope="module")
def scores(task):
    return jnp.asarray(np.random.default_rng(1).normal(size=task.reward.shape))


@pytest.mark.parametrize("law", list(h5.LAWS))
def test_likelihood_is_the_enumerated_geometric_mean(tree, task, scores, law):
    coverage = h5.laws(task)[law]
    rewards, laws = as_table(tree, task.reward), as_table(tree, coverage)
    drawn = {prompt: exponential(log_law) for prompt, log_law in laws.items()}
    labels = helpers.preference_law(task.prompt_probs.tolist(), rewards, drawn, float(task.temperature))
    table, total = as_table(tree, scores), 0.0
    for (prompt, chosen, rejected), probability in labels.items():
        margin = (table[prompt][chosen] - table[prompt][rejected]) / float(task.temperature)
        total += probability * math.log(helpers.sigmoid(margin))
    assert h5.likelihood(tree, task, scores, coverage) == pytest.approx(math.exp(total))


def test_laws_are_the_reference_its_tilt_and_its_inverse(tree, task):
    found = {name: as_table(tree, law) for name, law in h5.laws(task).items()}
    for prompt, reference in as_table(tree, task.reference).items():
        law, reward = exponential(reference), as_table(tree, task.reward)[prompt]
        inverse = {response: 1 / chance for response, chance in law.items()}
        total = sum(inverse.values())
        assert exponential(found["reference"][prompt]) == pytest.approx(law)
        assert exponential(found["optimal"][prompt]) == pytest.approx(
            helpers.soft_optimal(law, reward, float(task.beta))
        )
        assert exponential(found["rare"][prompt]) == pytest.approx({y: w / total for y, w in inverse.items()})


@pytest.mark.parametrize("model", ["global", "local", "DPO"])
@pytest.mark.parametrize(("vocabulary", "horizon", "width"), [(3, 3, 2), (2, 4, 1), (3, 2, 9)])
def test_free_parameters_are_the_rank_of_what_the_network_can_change(model, vocabulary, horizon, width):
    tree = TokenTree(vocabulary, horizon)
    if model == "DPO":
        policy = policies.mlp_policy(tree, width)
        leaves, params = policy.leaf_log_probs, policy.init(jax.random.key(1))
    else:
        verifier = verifiers.mlp_verifier(tree, width, sizes.READ_OUT[model])
        leaves, params = verifier.leaf_scores, verifier.init(jax.random.key(1))
    free = sizes.free_parameters(model, tree, width)
    assert min(free, tree.leaves - 1) == complexity.generic_dimension(leaves, params)


def test_models_are_of_one_size():
    cells = [cell for cell in h5.cells(h5.Config(horizon=4, width=5)) if cell.table == "fits"]
    assert {cell.labels["model"]: cell.labels["free_parameters"] for cell in cells} == {
        "global": 50,
        "local": 52,
        "DPO": 50,
    }
    assert {cell.program.model: cell.program.width for cell in cells} == {"global": 5, "local": 4, "DPO": 4}
    assert {cell.labels["width"] for cell in cells} == {5}
    assert {cell.labels["model"]: cell.labels["parameters"] for cell in cells} == {"global": 71, "local": 57, "DPO": 67}


def test_kendall_is_the_share_ordered_alike_less_the_share_ordered_differently():
    x, y = np.random.default_rng(2).normal(size=(2, 7))
    signs = [(x[i] - x[j]) * (y[i] - y[j]) for i, j in itertools.combinations(range(7), 2)]
    assert h5.kendall(x, y) == pytest.approx(sum(1 if sign > 0 else -1 for sign in signs) / 21)
    assert h5.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert h5.kendall(x, -x) == -1
    assert h5.kendall(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 3)
    assert np.isnan(h5.kendall(np.array([1.0, np.nan, 2.0]), np.array([1.0, 2.0, 3.0])))


BETTER = {"DPO": 0.0, "local": 0.02, "global": 0.05}


def made_up(outside: float, seeds: int = 32) -> dict[str, pl.DataFrame]:
    """Likelihoods that rise with n and by model, and ``outside`` times as much out of distribution."""
    rows = []
    for model, start in (("global", 0), ("global", 1), ("local", 0), ("DPO", 0)):
        for gold, pairs, seed in itertools.product((1, 4), (128, 512), range(seeds)):
            gain = BETTER[model] + 1e-4 * pairs + 0.01 * seed
            flip = 1e-3 * (start - 0.5) * (-1) ** seed  # of mean zero over the seeds
            rows.append(
                {
                    "model": model, "initialisation": start, "horizon": 4, "gold_order": gold, "width": 8, "beta": 1.0,
                    "temperature": 1.0, "reference_scale": 1.0, "pairs": pairs, "seed": seed, "status": "ok",
                    "likelihood_reference": 0.5 + gain + flip, "likelihood_optimal": 0.5 + outside * gain,
                    "likelihood_rare": 0.5 + outside * gain, f"best_of_{h5.COMPARED}": 10 * gain + flip,
                }
            )  # fmt: skip
    return {"fits": pl.DataFrame(rows)}


def by_claim(records):
    return {finding.claim.split(": ", 1)[1]: finding for finding in h5.findings(records) if "order 1" in finding.claim}


def test_findings_recover_known_differences():
    found = by_claim(made_up(outside=2.0))
    assert found["likelihood out of it (soft-optimal), global - local"].interval.estimate == pytest.approx(0.06)
    assert found["likelihood out of it (inverse reference), local - DPO"].interval.estimate == pytest.approx(0.04)
    assert found["gold reward of the best of 32, local - DPO"].interval.estimate == pytest.approx(0.2, rel=0.01)
    assert {finding.verdict for finding in found.values()} == {"supported"}


def test_ranks_that_reverse_out_of_distribution_contradict():
    found = by_claim(made_up(outside=-1.0))
    assert found["the same among the models at each n"].interval.estimate == -1
    assert found["the same among the models at each n"].verdict == "contradicted"
    assert found["rank in distribution and by the best of 32, at each n"].interval.estimate == 1


def test_control_sees_an_initialisation_that_matters():
    records = made_up(outside=1.0)
    assert {finding.verdict for finding in h5.findings(records) if finding.control} == {
        "equal within 0.02",
        "equal within 0.1 reward",
    }
    better = pl.col("likelihood_reference") + 0.1 * pl.col("initialisation")
    broken = {"fits": records["fits"].with_columns(likelihood_reference=better)}
    assert "different: below" in {finding.verdict for finding in h5.findings(broken) if finding.control}


def test_a_fit_without_a_number_is_a_failed_seed():
    records = made_up(outside=1.0)
    lost = (pl.col("seed") == 2) & (pl.col("model") == "local")
    value = pl.when(lost).then(np.nan).otherwise("likelihood_reference")
    found = by_claim({"fits": records["fits"].with_columns(likelihood_reference=value)})
    assert found["likelihood in distribution, global - local"].interval.failed == 1
    assert found["the same among the models at each n"].interval.failed == 1


def test_nonsense_is_refused_and_impossible_points_are_left_out():
    for setting, message in (({"width": 0}, "width"), ({"beta": 0.0}, "beta"), ({"vocabulary": 1}, "vocabulary")):
        with pytest.raises(ValueError, match=message):
            h5.Config(**setting)
    assert h5.cells(h5.Config(horizon=2, gold_order=3)) == []
