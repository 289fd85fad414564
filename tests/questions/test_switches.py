"""What a row records is what its arm ended at, and every switch of a question changes what it says and nothing else.

Fits are those of ``wiring``: where they end is known, so that the columns of a row can be computed again by hand.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from experiments.questions import (
    h1_information,
    h3_optimisation,
)
from gvgap_jax import TokenTree, metrics, policies, verifiers
from tests import helpers
from tests.questions.wiring import another, cells_of, same, unchanged, wired

pytestmark = pytest.mark.slow


def cell_of(name, backend="tree", numbers=None, **labels):
    """The one cell with these labels, and these numbers."""
    numbers = numbers or {}
    (cell,) = (
        cell
        for cell in cells_of(name, backend)
        if all({**cell.labels, "table": cell.table}.get(label) == value for label, value in labels.items())
        and all(cell.numbers.get(number) == value for number, value in numbers.items())
    )
    return cell


def soft(scores, known):
    """Log-probabilities of the soft-optimal policy, by its formula."""
    return log_softmax(np.asarray(known.reference) + np.asarray(scores) / known.beta, axis=-1)


def kl(left, right, weight):
    return float(np.sum(weight * np.sum(np.exp(left) * (left - right), axis=-1)) / np.sum(weight))


def regret(log_policy, row, known, weight=None):
    weight = known.prompt_probs if weight is None else weight
    return kl(np.asarray(log_policy), soft(row.reward, known), weight)


def tabular(tree, fit):
    policy = policies.tabular(tree, tree.conditionals(fit["known"].reference))
    return policy.leaf_log_probs(fit["params"])


def two_stage(tree, fit, order):
    return soft(verifiers.nested_interactions(tree, order).leaf_scores(fit["params"]), fit["known"])


SPREAD = {"reference_scale": 1.0, "temperature": 1.6, "beta": 0.7}


@pytest.mark.parametrize("name", ["h4_data", "sample_complexity"])
@pytest.mark.parametrize("arm", ["DPO", "RLHF", "restricted MLE"])
def test_an_arm_is_judged_where_it_ended(name, arm):
    for cell in (cell for cell in cells_of(name) if cell.labels.get("arm") == arm):
        row = wired(name, cell, **SPREAD)
        (fit,) = row.fits
        order = cell.numbers.get("order", cell.numbers["gold_order"])
        ended = tabular(cell.program.tree, fit) if arm == "DPO" else two_stage(cell.program.tree, fit, order)
        assert row.records["regret"] == pytest.approx(regret(ended, row, fit["known"]))
        gold = np.sum(np.exp(ended) * row.reward)
        assert row.records["gold_reward"] == pytest.approx(gold)
        assert row.records["objective"] == pytest.approx(gold - 0.7 * row.records["kl_to_reference"])
        assert row.records["penalty"] == 1, "of its own fit"


@pytest.mark.parametrize("name", ["h6b_horizon", "h6c_verifier_order"])
def test_all_methods_of_a_row_have_their_own_columns(name):
    (cell,) = cells_of(name)
    row = wired(name, cell, **SPREAD)
    dpo, rlhf, restricted = row.fits
    tree = cell.program.tree
    for number, (method, ended) in enumerate(
        {"dpo": tabular(tree, dpo), "rlhf": two_stage(tree, rlhf, 1), "restricted": two_stage(tree, restricted, 1)}
        .items(), start=1,
    ):  # fmt: skip
        assert row.records[f"{method}_regret"] == pytest.approx(regret(ended, row, dpo["known"]))
        assert row.records[f"{method}_penalty"] == number
    full = wired(name, cell, **SPREAD, gold_order=2)
    assert row.records["rlhf_dimension"] < 0.9 * row.records["dpo_dimension"]
    assert full.records["rlhf_dimension"] == pytest.approx(full.records["dpo_dimension"], rel=1e-6)


@pytest.mark.parametrize("name", ["h2_regularisation", "h4_data", "sample_complexity"])
def test_the_backbone_arm_fits_a_reward_model_of_the_policys_kind(name):
    """On the other backend; the arm of the same name with a simple verifier fits another."""
    cells = cells_of(name, "transformer")
    own, simple, offline = (
        wired(name, next(cell for cell in cells if cell.labels.get("arm") == arm), "transformer").fits
        for arm in ("RLHF, same backbone", "RLHF", "DPO")
    )
    assert [fit["kind"] for fit in own] == ["pairs", "exact"]
    network = verifiers.mlp_verifier(TokenTree(3, 2), 2).init(jax.random.key(0))
    assert shapes(own[0]["start"]) == shapes(network)
    assert shapes(simple[0]["start"]) != shapes(network)
    assert shapes(offline[0]["start"]) != shapes(simple[0]["start"])
    assert same(own[0]["train"], simple[0]["train"])


def shapes(params):
    return [np.shape(leaf) for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize("name", ["h4_data", "sample_complexity", "rival_sparse", "rival_plateau"])
def test_effective_dimensions_are_those_of_their_class(name):
    cells = [cell for cell in cells_of(name) if cell.table == "dimensions"]
    values = [float(wired(name, cell).records["effective_dimension"]) for cell in cells]
    switch = next(number for number in ("order", "known", "small") if number in cells[0].numbers)
    small = [value for cell, value in zip(cells, values, strict=True) if cell.numbers[switch] == 1]
    every = [value for cell, value in zip(cells, values, strict=True) if cell.numbers[switch] != 1]
    assert small
    assert every
    assert max(small) < 0.8 * min(every)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 6.0])
def test_h4_draws_its_pairs_from_the_tilted_reference(tilt):
    cell = cell_of("h4_data", arm="DPO")
    row = wired("h4_data", cell, reference_scale=1.0, tilt=tilt)
    tree, (fit,) = cell.program.tree, row.fits
    law = np.exp(log_softmax(tilt * fit["known"].reference[0]))
    drawn = np.concatenate([tree.leaf_index(row.pairs[0].chosen), tree.leaf_index(row.pairs[0].rejected)])
    found = np.bincount(drawn, minlength=tree.leaves) / len(drawn)
    assert np.abs(found - law).max() < 0.03
    dimensions = cell_of("h4_data", table="dimensions", numbers={"order": 1})
    value, plain = (wired("h4_data", dimensions, reference_scale=1.0, tilt=each).records for each in (tilt, 1.0))
    assert same(value, plain) == (tilt == 1.0)


@pytest.mark.parametrize("order", [1, 2])
def test_h1_has_the_exact_second_stage_beside_the_sampled_one(order):
    tree = TokenTree(3, 2)
    offline = cell_of("h1_information", responses=0, numbers={"order": order})
    row = wired("h1_information", offline, **SPREAD)
    model, dpo = row.fits
    everything = verifiers.nested_interactions(tree, 2)
    exact = two_stage(tree, model, order)
    ended = soft(everything.leaf_scores(dpo["params"]), dpo["known"])
    assert row.records["regret_exact"] == pytest.approx(regret(exact, row, model["known"]))
    assert row.records["regret"] == pytest.approx(regret(ended, row, dpo["known"]))
    assert row.records["kl_to_exact"] == pytest.approx(kl(ended, exact, 1.0))
    assert (row.records["penalty_exact"], row.records["penalty"]) == (1, 2)

    sampled = cell_of("h1_information", responses=1_000, numbers={"order": order})
    row = wired("h1_information", sampled, **SPREAD)
    model, rloo = row.fits
    batch, verifier = rloo["batch"], verifiers.nested_interactions(tree, order)
    learned = verifier.score(model["params"], jnp.asarray(batch.prompts), jnp.asarray(batch.responses))
    np.testing.assert_allclose(batch.reward.reshape(-1), learned)
    policy = policies.tabular(tree, tree.conditionals(model["known"].reference))
    assert same(rloo["start"], policy.init(jax.random.key(0)))
    assert row.records["regret"] == pytest.approx(regret(policy.leaf_log_probs(rloo["params"]), row, model["known"]))
    rounds, steps = rloo["settings"]
    assert rounds * batch.reward.size == 1_000
    assert steps == h1_information.SIZES[1_000].steps


@pytest.mark.parametrize("arm", ["DPO", "RLHF", "DPO, simple class"])
def test_h2_switches_the_regulariser_and_no_more(arm):
    name = "h2_regularisation"
    rows = {
        regulariser: wired(name, cell_of(name, arm=arm, regulariser=regulariser), **SPREAD)
        for regulariser in ("reverse KL", "forward KL", "none")
    }
    reference = {name: row.fits[0]["known"].reference for name, row in rows.items()}
    assert same(reference["reverse KL"], reference["forward KL"])
    np.testing.assert_allclose(reference["none"], -np.log(9))
    assert np.std(reference["reverse KL"]) > 0.3
    drawn = [(row.pairs[0].chosen, row.pairs[0].rejected, row.reward) for row in rows.values()]
    assert same(drawn[0], drawn[1])
    assert same(drawn[0], drawn[2]), "pairs are of the reference policy whatever the fits regularise to"
    margins = {name: row.fits[0]["margins"] for name, row in rows.items()}
    assert same(margins["reverse KL"], margins["forward KL"]) == (arm == "RLHF")
    for name, row in rows.items():
        known, gold = row.fits[0]["known"], np.asarray(row.reward)
        if arm == "RLHF" and name != "forward KL":
            ended = two_stage(TokenTree(3, 2), row.fits[0], 1)
            attained = np.sum(np.exp(ended) * gold) - 0.7 * kl(ended, known.reference, 1.0)
            best = 0.7 * logsumexp(known.reference + gold / 0.7)
            assert row.records["objective"] == pytest.approx(attained)
            assert row.records["shortfall"] == pytest.approx(best - attained)
            assert row.records["gold_reward"] == pytest.approx(np.sum(np.exp(ended) * gold))
            assert row.records["kl_to_reference"] == pytest.approx(kl(ended, reference["reverse KL"], 1.0))
        assert row.records["shortfall"] >= 0


def test_h2_forward_kl_has_its_own_optimum_and_its_own_objective():
    cell = cell_of("h2_regularisation", arm="RLHF", regulariser="forward KL")
    row = wired("h2_regularisation", cell, **SPREAD)
    (fit,) = row.fits
    reference, tree = np.exp(fit["known"].reference), TokenTree(3, 2)
    scores = np.asarray(verifiers.nested_interactions(tree, 1).leaf_scores(fit["params"]))

    def optimal(reward):  # pi = beta pi_ref / (lambda - r), with lambda so that it sums to 1
        low, high = reward.max() + 0.7 * reference[0, reward.argmax()], reward.max() + 0.7
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sum(0.7 * reference / (middle - reward)) > 1 else (low, middle)
        return 0.7 * reference / (low - reward)

    def attained(policy):
        return np.sum(policy * row.reward) - 0.7 * np.sum(reference * np.log(reference / policy))

    gold = np.asarray(row.reward)
    assert row.records["objective"] == pytest.approx(attained(optimal(scores)), rel=1e-4)
    assert row.records["shortfall"] == pytest.approx(attained(optimal(gold)) - attained(optimal(scores)), rel=1e-3)


def h3(backend, arm, augmented, steps):
    cells = [cell for cell in cells_of("h3_optimisation", backend) if cell.labels["arm"] == arm]
    (cell,) = (
        cell for cell in cells
        if (cell.numbers["augmented"], cell.numbers["steps"]) == (augmented, steps)
        and (arm == "DPO" or cell.numbers["reward_order"] == 1)
    )  # fmt: skip
    return cell, wired("h3_optimisation", cell, backend, reference_scale=1.0, beta=0.7)


@pytest.mark.parametrize("backend", ["tree", "transformer"])
@pytest.mark.parametrize("steps", [0, 5])
def test_h3_gives_more_prompts_to_the_second_stage_alone(backend, steps):
    covered = np.asarray(h3_optimisation.with_pairs(TokenTree(3, 2, 1)))
    assert sorted(covered) == [0, 0.5, 0.5]
    for arm, augmented in (("DPO", 0), ("RLHF", 0), ("RLHF", 1)):
        cell, row = h3(backend, arm, augmented, steps)
        fit = row.fits[0]
        np.testing.assert_allclose(fit["known"].prompt_probs, np.full(3, 1 / 3) if augmented else covered)
        asked = np.unique(np.asarray(row.pairs[0].prompts))
        assert set(asked) == set(np.flatnonzero(covered)), "no label of the other prompts"
        if arm == "RLHF":
            np.testing.assert_allclose(row.fits[1]["prompt_weight"], 0.7 * fit["known"].prompt_probs)
        few = [getattr(fit["settings"], name) for name in ("adam_steps", "solver")]
        assert (int(few[0]) == 5) == (steps == 5)
        if backend == "tree":
            assert few[1] == ("adam" if steps else "newton")
            order = cell.numbers["policy_order"] if arm == "DPO" else 1
            teacher = verifiers.nested_interactions(cell.program.tree, order)
            assert same(fit["start"], teacher.init(jax.random.key(0)))
            end = row.fits[-1]["params"]
            policy = verifiers.nested_interactions(cell.program.tree, cell.numbers["policy_order"])
            ended = soft(policy.leaf_scores(end), fit["known"])
            for where, weight in {"with_pairs": covered, "without_pairs": covered == 0, "all": np.ones(3)}.items():
                assert row.records[f"regret_{where}"] == pytest.approx(regret(ended, row, fit["known"], weight))


def likelihood(scores, row, known, law):
    """Geometric mean probability of the labels of all pairs of a law, by its definition."""
    scores, gold, probability = np.asarray(scores)[0], np.asarray(row.reward)[0], np.exp(np.asarray(law))[0]
    total = 0.0
    for i, j in np.ndindex(len(gold), len(gold)):
        wins = helpers.sigmoid((gold[i] - gold[j]) / known.temperature)
        likely = helpers.sigmoid((scores[i] - scores[j]) / known.temperature)
        total += 2 * probability[i] * probability[j] * wins * np.log(likely)
    return np.exp(total)


@pytest.mark.parametrize("backend", ["tree", "transformer"])
@pytest.mark.parametrize("model", ["global", "local", "DPO"])
def test_h5_judges_the_model_that_it_fitted_in_every_law(backend, model):
    cell = cell_of("h5_generalisation", backend, model=model, numbers={"initialisation": 0})
    row = wired("h5_generalisation", cell, backend, **SPREAD)
    (fit,) = row.fits
    known, tree = fit["known"], cell.program.tree
    if model == "DPO":
        policy = policies.mlp_policy(tree, cell.program.width, tree.conditionals(known.reference))
        scores = 0.7 * (policy.leaf_log_probs(fit["params"]) - known.reference)
    else:
        read_out = {"global": "final", "local": "token_sum"}[model]
        scores = verifiers.mlp_verifier(tree, cell.program.width, read_out).leaf_scores(fit["params"])
    laws = {"reference": known.reference, "optimal": soft(row.reward, known), "rare": log_softmax(-known.reference)}
    for law, log_probs in laws.items():
        assert row.records[f"likelihood_{law}"] == pytest.approx(likelihood(scores, row, known, log_probs))
    picked = np.asarray(metrics.best_of_n(known.reference, scores, 4))
    assert row.records["best_of_4"] == pytest.approx(np.sum(picked * row.reward))
    assert row.records["best_of_1"] == pytest.approx(np.sum(np.exp(known.reference) * row.reward))
    again = wired("h5_generalisation", cell, backend, **SPREAD, initialisation=1)
    assert not same(fit["start"], again.fits[0]["start"])
    assert same((row.pairs, row.reward), (again.pairs, again.reward)), "only the start is another"


def test_h5_gold_row_is_the_gold_reward_itself():
    row = wired("h5_generalisation", cell_of("h5_generalisation", model="gold"), **SPREAD)
    records = row.records
    assert records["shift_reference"] == pytest.approx(0)
    assert records["shift_optimal"] > 0
    best = np.array([records[f"best_of_{2**power}"] for power in range(9)])
    assert np.all(np.diff(best) > -1e-9)
    assert best[-1] == pytest.approx(np.max(row.reward), abs=0.1)


@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_h6a_switches_the_labels_the_human_and_the_number_of_samples(backend):
    (cell, *_) = cells_of("h6a_model_sizes", backend)
    run = functools.partial(wired, "h6a_model_sizes", cell, backend, reference_scale=1.0)
    one = run(samples=1).records
    assert one["gold_reward_best"] == pytest.approx(one["gold_reward_first"])
    assert one["win_rate_worst"] == pytest.approx(one["win_rate_first"])
    many = run(samples=25)
    assert not same(many.records["gold_reward_best"], one["gold_reward_best"])
    assert many.records["gold_reward_first"] == one["gold_reward_first"]
    written, model = many.fits
    human = soft(many.reward, model["known"])
    np.testing.assert_allclose(many.pairs[1], np.exp(human), rtol=1e-6)  # demonstrations of the one prompt
    sharper = run(human_beta=0.5)
    assert np.max(sharper.pairs[1]) > np.max(many.pairs[1])
    assert not same(written["loss"], sharper.fits[0]["loss"])
    if backend == "tree":
        tree = cell.program.tree
        base = policies.nested_markov(tree, cell.numbers["policy_order"]).leaf_log_probs(written["params"])
        scores = verifiers.nested_interactions(tree, cell.numbers["verifier_order"]).leaf_scores(model["params"])
        for name, sign in (("best", 1), ("worst", -1)):
            law = np.asarray(metrics.best_of_n(base, sign * scores, 25))
            assert many.records[f"gold_reward_{name}"] == pytest.approx(np.sum(law * many.reward))
            wins = np.sum(law[0][:, None] * np.exp(human)[0] * beats(many.reward[0]))
            assert many.records[f"win_rate_{name}"] == pytest.approx(wins)


def beats(reward):
    """1 where one response (rows) has more reward than another (columns), one half where they tie."""
    difference = np.asarray(reward)[:, None] - np.asarray(reward)[None]
    return (np.sign(np.where(np.abs(difference) < 1e-9, 0, difference)) + 1) / 2


@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_h6a_coins_know_nothing_of_the_gold_reward(backend):
    (cell, *_) = cells_of("h6a_model_sizes", backend, labels="coin")
    assert cell.numbers["informed"] == 0
    coins, others = (wired("h6a_model_sizes", cell, backend, poison=each) for each in (unchanged, another))
    assert same(coins.pairs[0], others.pairs[0])
    gold, other = (wired("h6a_model_sizes", cell, backend, informed=1, poison=each) for each in (unchanged, another))
    assert not same(gold.pairs[0], other.pairs[0])
    assert same(gold.pairs[0].prompts, coins.pairs[0].prompts)
