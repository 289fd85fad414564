"""Arms of the main table, of the rivals and of the token tasks: who starts where, reads what, and is judged how."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.questions import (
    main_table,
    main_table_arms,
    rival_coverage,
    rival_implicit_worlds,
    rival_overoptimisation,
    rival_plateau,
    rival_sparse,
    token_tasks_arms,
)
from experiments.questions.main_table_costs import Cost
from experiments.questions.rival_misspecification import THETA
from gvgap_jax import HeldOut, TokenTree, algorithms, metrics, policies, verifiers
from gvgap_jax.soft_rl import soft_optimal_policy
from tests.questions.test_switches import SPREAD, beats, cell_of, kl, regret, soft, tabular, two_stage
from tests.questions.wiring import TOKENS, another, cells_of, same, unchanged, wired
from theory.rivals import ARMS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table():
    """The main table's one cell, what each call of an arm's fit was given, and where every arm ended."""
    (cell,) = cells_of("main_table")
    ended = {}
    arms = main_table_arms.arms

    def kept(scene):
        ended.update(scene=scene, **{"outcomes": arms(scene)})
        return ended["outcomes"]

    row = wired("main_table", cell, patches=[(main_table, "arms", kept)], beta=0.7)
    return cell, row, ended["scene"], ended["outcomes"]


RATES = 4  # learning rates to choose from, a fit each


def by_rate(fits, start):
    return fits[start : start + RATES]


def test_every_arm_of_the_table_starts_where_it_says(table):
    cell, row, scene, outcomes = table
    sampled = [fit for fit in row.fits if fit["kind"] == "sampled"]
    reward, offline, twice, sft, dpo, soft_labels, iterated, iterated_soft, rloo, ppo = (
        by_rate(sampled, RATES * number) for number in range(10)
    )
    start = scene.policy.init(scene.key)
    for fits in (offline, twice, sft, soft_labels, iterated, iterated_soft, rloo):
        assert all(same(fit["start"], start) for fit in fits)
    assert all(same(fit["start"][0], start) for fit in ppo)
    np.testing.assert_allclose(scene.policy.leaf_log_probs(dpo[0]["start"]), outcomes["DPO"].log_policy, atol=1e-9)
    assert not same(dpo[0]["start"], start)
    assert [fit["learning_rate"] for fit in offline] == pytest.approx(scene.backend.learning_rates)
    rounds = cell.program.rounds
    assert [fits[0]["settings"] for fits in (reward, offline, twice, sft, dpo, soft_labels)] == [
        (rounds, 1), (rounds, 1), (2 * rounds, 1), (rounds, 1), (rounds, 1), (rounds, 1)
    ]  # fmt: skip
    assert [fits[0]["settings"][1] for fits in (iterated, iterated_soft, rloo, ppo)] == [1, 1, 1, 2]


def test_labels_of_online_arms_are_sharp_or_soft(table):
    _, row, _, _ = table
    sampled = [fit for fit in row.fits if fit["kind"] == "sampled"]
    sharp, soft_labels = sampled[6 * RATES]["batch"], sampled[7 * RATES]["batch"]
    assert set(np.unique(sharp.weight)) <= {0, 1}
    assert np.all((soft_labels.weight > 0) & (soft_labels.weight < 1))
    assert len(soft_labels.weight) == 2 * len(sharp.weight) * main_table_arms.SAMPLES // 2


def test_one_round_of_online_dpo_has_its_labels_from_the_reward_model(table):
    """Sharp ones never contradict it, soft ones do."""
    _, row, scene, _ = table
    sampled = [fit for fit in row.fits if fit["kind"] == "sampled"]

    def agrees(batch, model):
        chosen, rejected = (
            scene.verifier.score(model["params"], jnp.asarray(batch.prompts), jnp.asarray(side))
            for side in (batch.chosen, batch.rejected)
        )
        return np.all(chosen >= rejected)

    from_sft, from_dpo, soft_labels = (
        [agrees(sampled[RATES * number]["batch"], model) for model in by_rate(sampled, 0)] for number in (3, 4, 5)
    )
    assert any(from_sft)
    assert any(from_dpo)
    assert not any(soft_labels)


def test_an_online_arm_reads_the_one_reward_model(table):
    _, row, scene, _ = table
    sampled = [fit for fit in row.fits if fit["kind"] == "sampled"]
    rollout = sampled[8 * RATES]["batch"]
    scores = [
        scene.verifier.score(fit["params"], jnp.asarray(rollout.prompts), jnp.asarray(rollout.responses))
        for fit in by_rate(sampled, 0)
    ]
    assert sum(np.allclose(rollout.reward.reshape(-1), score) for score in scores) == 1, "that of one learning rate"


def test_every_arm_of_the_table_is_judged_where_it_ended(table):
    cell, row, scene, outcomes = table
    known, reward, tree = scene.problem.known, row.reward, cell.program.tree
    human = soft_optimal_policy(reward, np.full(reward.shape, -np.log(tree.leaves)), 1.0)
    for arm, outcome in outcomes.items():
        law = np.exp(np.asarray(outcome.log_policy))
        wins = np.mean([law[x] @ beats(reward[x]) @ np.exp(human[x]) for x in range(tree.prompts)])
        assert row.records[f"{arm}: win_rate"] == pytest.approx(wins), arm
        assert row.records[f"{arm}: gold_reward"] == pytest.approx(np.mean(np.sum(law * reward, axis=1)))
        ended = np.where(law > 0, np.asarray(outcome.log_policy), -745.0)
        assert row.records[f"{arm}: regret"] == pytest.approx(regret(ended, row, known), abs=1e-6), arm
        assert row.records[f"{arm}: responses"] == outcome.cost.drawn
    models = [fit for fit in row.fits if fit["kind"] == "sampled"][:RATES]
    picked = np.asarray(outcomes["best of n"].log_policy)
    exact = np.asarray(outcomes["RLHF, exact"].log_policy)
    scores = [np.asarray(scene.verifier.leaf_scores(fit["params"])) for fit in models]
    laws = [np.log(metrics.best_of_n(known.reference, score, cell.program.candidates)) for score in scores]
    assert sum(np.allclose(picked, law) for law in laws) == 1
    assert sum(np.allclose(exact, soft(score, known)) for score in scores) == 1
    np.testing.assert_allclose(outcomes["SFT"].log_policy, known.reference)


def test_optimum_arms_are_the_methods_of_their_names(table):
    _, row, scene, outcomes = table
    dpo, rlhf, restricted = [fit for fit in row.fits if fit["kind"] == "pairs"]
    known = scene.problem.known
    np.testing.assert_allclose(outcomes["DPO, optimum"].log_policy, scene.policy.leaf_log_probs(dpo["params"]))
    for arm, fit in (("RLHF, optimum", rlhf), ("restricted MLE, optimum", restricted)):
        ended = soft(scene.verifier.leaf_scores(fit["params"]), known)
        np.testing.assert_allclose(outcomes[arm].log_policy, ended, atol=1e-9)


@pytest.mark.parametrize("best", range(4))
def test_the_learning_rate_is_chosen_by_the_lowest_held_out_loss(best):
    rates = (0.01, 0.03, 0.1, 0.3)

    def fit(rate):
        zero = jnp.zeros(())
        return algorithms.Fit(rate, zero, zero, zero, zero, jnp.zeros((), int), jnp.array(True))

    def loss(params, batch):
        return jnp.abs(params - batch)

    chosen = main_table_arms.tuned(fit, loss, HeldOut(jnp.array(rates[best])), rates)
    assert chosen.params == pytest.approx(rates[best])


def test_the_reference_of_the_table_is_imitated_from_the_human():
    """SFT sees the human's law, and the reference of all that follows is where it ended."""
    (cell,) = cells_of("main_table")
    scenes = {}

    def arms(scene):
        scenes["scene"] = scene
        return {"SFT": main_table_arms.Outcome(scene.problem.known.reference, scene.converged, Cost())}

    row = wired("main_table", cell, patches=[(main_table, "arms", arms)], beta=0.7)
    (sft,) = row.fits
    tree, scene = cell.program.tree, scenes["scene"]
    human = soft_optimal_policy(row.reward, np.full(row.reward.shape, -np.log(tree.leaves)), 1.0)
    np.testing.assert_allclose(row.pairs[1], np.exp(human) / tree.prompts)
    ended = policies.markov(tree, 1).leaf_log_probs(sft["params"])
    np.testing.assert_allclose(scene.problem.known.reference, ended, atol=1e-9)
    assert scene.problem.known.beta == pytest.approx(0.7)


@pytest.mark.parametrize(("policy", "order"), [("tabular", 1), ("interactions", 1), ("interactions", 2)])
def test_the_phase_diagram_fits_the_classes_of_the_point(policy, order):
    cells = cells_of("phase_diagram", policy=policy, policy_order=order, verifier_order=2, gold_order=2)
    tree = TokenTree(3, 2)
    for cell in (cell for cell in cells if cell.table == "fits"):
        row = wired("phase_diagram", cell, **SPREAD)
        fit = row.fits[0]
        if cell.labels["arm"] == "DPO" and policy == "tabular":
            ended = tabular(tree, fit)
        elif cell.labels["arm"] == "DPO":
            ended = two_stage(tree, fit, order)
        elif (policy, order) == ("interactions", 1):
            assert [each["kind"] for each in row.fits] == ["pairs", "exact"], "onto policies that are too small"
            ended = soft(verifiers.nested_interactions(tree, 1).leaf_scores(row.fits[1]["params"]), fit["known"])
        else:
            ended = two_stage(tree, fit, 2)
        assert row.records["regret"] == pytest.approx(regret(ended, row, fit["known"]))
        assert row.records["penalty"] == 1


@pytest.mark.parametrize("method", ["DPO", "RLHF"])
@pytest.mark.parametrize("penalties", ["chosen", "next to none"])
def test_withheld_responses_are_in_no_pair(method, penalties):
    cell = next(
        cell for cell in cells_of("rival_coverage")
        if (cell.labels["method"], cell.labels["penalties"]) == (method, penalties)
    )  # fmt: skip
    tree = cell.program.tree
    for unseen in (0.0, 0.34, 0.67):
        row = wired("rival_coverage", cell, unseen=unseen)
        (fit,) = row.fits
        drawn = np.concatenate([tree.leaf_index(row.pairs[0].chosen), tree.leaf_index(row.pairs[0].rejected)])
        seen = np.unique(drawn)
        assert len(seen) == 9 - round(9 * unseen)
        assert fit["settings"].penalties == rival_coverage.PENALTIES[penalties]
        ended = tabular(tree, fit) if method == "DPO" else two_stage(tree, fit, cell.numbers["order"])
        assert row.records["regret"] == pytest.approx(regret(ended, row, fit["known"]))
        if unseen:
            hole = np.setdiff1d(np.arange(9), seen)
            assert row.records["hole_mass"] == pytest.approx(np.sum(np.exp(ended)[0, hole]))
            optimal = np.exp(soft(row.reward, fit["known"]))[0, hole]
            assert row.records["optimal_hole_mass"] == pytest.approx(np.sum(optimal))
        np.testing.assert_allclose(fit["known"].reference, -np.log(9))  # the reference writes them all


def sparse(arm, **numbers):
    return wired("rival_sparse", cell_of("rival_sparse", arm=arm), **numbers)


def test_the_sparse_rivals_arms_differ_in_the_terms_that_they_may_use():
    known, dense, searched, dpo = (sparse(arm) for arm in ("known", "dense", "sparse", "DPO"))
    assert (known.records["size"], known.records["found"]) == (1, 1)
    assert (dense.records["size"], dense.records["found"]) == (dpo.records["size"], 1)
    tree = cells_of("rival_sparse")[0].program.tree
    features = np.asarray(rival_sparse.interaction_basis(tree, tree.horizon)[0], float)
    support = np.abs(np.einsum("xld,xl->d", features, known.reward)) > 1e-6
    fit = known.fits[0]
    ended = soft(features @ np.where(support, fit["params"], 0.0), fit["known"])
    assert known.records["regret"] == pytest.approx(regret(ended, known, fit["known"]))
    ended = soft(features @ dense.fits[0]["params"], dense.fits[0]["known"])
    assert dense.records["regret"] == pytest.approx(regret(ended, dense, dense.fits[0]["known"]))
    assert dpo.records["regret"] == pytest.approx(regret(tabular(tree, dpo.fits[0]), dpo, fit["known"]))
    losses = [float(fit["held_out"].weight.sum()) for fit in searched.fits]
    assert len(losses) == 1 + len(rival_sparse.support_sizes(features.shape[-1]))
    assert same([row.pairs for row in (known, searched)], [row.pairs for row in (dense, dpo)])


@pytest.mark.parametrize("arm", ["frontiers", "dpo"])
def test_frontiers_are_of_the_fitted_reward_and_judged_by_both(arm):
    cell = next(cell for cell in cells_of("rival_overoptimisation") if cell.table == arm)
    row = wired("rival_overoptimisation", cell, reference_scale=1.0)
    (fit,) = row.fits
    known, tree = fit["known"], cell.program.tree
    base, gold = np.exp(np.asarray(known.reference)), row.reward
    if arm == "dpo":
        ended = tabular(tree, fit)
        assert row.records["gold"] == pytest.approx(np.sum((np.exp(ended) - base) * gold))
        assert row.records["kl"] == pytest.approx(kl(np.asarray(ended), known.reference, 1.0))
        return
    scores = np.asarray(verifiers.nested_interactions(tree, cell.numbers["order"]).leaf_scores(fit["params"]))
    for name, law in {
        "best-of-n 16": np.asarray(metrics.best_of_n(known.reference, scores, 16)),
        "RL 0.5": np.exp(np.asarray(soft_optimal_policy(scores, known.reference, 0.5))),
    }.items():
        assert row.records[f"{name} gold"] == pytest.approx(np.sum((law - base) * gold))
        assert row.records[f"{name} proxy"] == pytest.approx(np.sum((law - base) * scores))
        assert row.records[f"{name} kl"] == pytest.approx(np.sum(law * (np.log(law) - np.log(base))))
    for column in ("gold", "proxy", "kl"):
        assert row.records[f"best-of-n 1 {column}"] == pytest.approx(0, abs=1e-12), "one sample is the reference's"


def test_the_gold_frontier_is_its_own_proxy():
    row = wired("rival_overoptimisation", cells_of("rival_overoptimisation")[0])
    for method, strengths in rival_overoptimisation.STRENGTHS.items():
        for strength in strengths:
            gold, proxy = (row.records[f"{method} {strength:g} {name}"] for name in ("gold", "proxy"))
            assert gold == proxy


@pytest.mark.parametrize("rewards", ["table", "features"])
def test_arms_of_the_plateau_end_at_what_they_learned(rewards):
    def made(arm, **numbers):
        return wired("rival_plateau", cell_of("rival_plateau", arm=arm, rewards=rewards), **numbers)

    reverse, fixed, growing, distilled, one = (
        made(arm)
        for arm in (
            "two-stage reverse KL", "forward KL, fixed sample", "forward KL, growing sample",
            "preference distillation", "one-stage likelihood",
        )
    )  # fmt: skip
    known = one.fits[0]["known"]
    ended = tabular(TokenTree(3, 1, 1), one.fits[0])
    optimal = soft(one.reward, known)
    assert one.records["reverse_kl"] == pytest.approx(kl(np.asarray(ended), optimal, known.prompt_probs))
    assert one.records["forward_kl"] == pytest.approx(kl(optimal, np.asarray(ended), known.prompt_probs))
    for row in (reverse, fixed, growing, distilled):
        assert same((row.pairs, row.reward, row.fits[0]["start"]), (reverse.pairs, one.reward, fixed.fits[0]["start"]))
    many = made("forward KL, growing sample", samples=2**16)
    assert abs(many.records["reverse_kl"] - reverse.records["reverse_kl"]) < 0.02 * reverse.records["reverse_kl"] + 0.01
    assert not same(fixed.records["reverse_kl"], many.records["reverse_kl"])
    first, second = distilled.fits
    assert second["settings"].penalties == (0.0,)
    assert float(second["train"].weight.sum()) == pytest.approx(64), "as many unlabelled pairs as it may"
    every = second["train"]
    scores = np.asarray(verifiers.linear(TokenTree(3, 1, 1), features_of(rewards)).leaf_scores(first["params"]))
    place = [np.asarray(side)[:, 0] for side in (every.prompts, every.chosen, every.rejected)]
    weight = np.zeros((3, 3, 3))
    np.add.at(weight, tuple(place), np.asarray(every.weight))
    times = weight + weight.swapaxes(1, 2)
    wins = 1 / (1 + np.exp(-(scores[:, :, None] - scores[:, None])))
    np.testing.assert_allclose(weight, times * wins, atol=1e-9)


def features_of(rewards):
    key, *_ = jax.random.split(jax.random.key(0), 4)
    numbers = cell_of("rival_plateau", arm="one-stage likelihood", rewards=rewards).numbers
    return rival_plateau.target(key, TokenTree(3, 1, 1), numbers["gamma"], numbers["dimension"], numbers["small"])[1]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.25])
@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_token_cues_draw_from_both_halves_as_told(share, backend):
    for cell in (cell for cell in cells_of("rival_implicit", backend) if cell.table == "tokens"):
        row = wired("rival_implicit", cell, backend, test_share=share)
        drawn = np.concatenate([row.pairs[0].chosen, row.pairs[0].rejected])
        assert np.mean(drawn >= 2) == pytest.approx(share, abs=0.04)
        (fit,) = row.fits
        if backend == "tree":
            _, tested = rival_implicit_worlds.groups(4)
            _, prompts = rival_implicit_worlds.single_tokens({"seed": 0, "margin": 4.0}, cell.program.tree, 3)
            policy, head = rival_implicit_worlds._fixed_features(cell.program.tree, prompts, cell.numbers)
            implicit = cell.labels["arm"] == "implicit"
            scores = np.asarray(policy.leaf_log_probs(fit["params"]) if implicit else head.leaf_scores(fit["params"]))
            for half, judged in (("tested", np.asarray(tested)), ("trained", ~np.asarray(tested))):
                assert row.records[f"accuracy_{half}"] == pytest.approx(ranked(scores, row.reward, judged))


def ranked(scores, gold, judged):
    """Share of judged pairs of unequal gold reward that a score orders right, counted."""
    right = [
        (np.sign(scores[x, i] - scores[x, j]) + 1) / 2
        for x, i, j in np.ndindex(*gold.shape, gold.shape[1])
        if judged[i] and judged[j] and gold[x, i] > gold[x, j]
    ]
    return np.mean(right)


@pytest.mark.parametrize("arm", ["DPO", "RLHF"])
def test_cycles_are_judged_where_the_policy_ended(arm):
    cell = cell_of("rival_implicit", table="cycles", arm=arm)
    row = wired("rival_implicit", cell, reference_mass=0.1, beta=0.7)
    (fit,) = row.fits
    known, gold = fit["known"], row.reward
    correct = gold[0] > 0
    assert np.exp(known.reference)[0, correct].sum() == pytest.approx(0.1)
    checker = correct[None, :, None].astype(float)
    scores = np.asarray(verifiers.linear(cell.program.tree, checker).leaf_scores(fit["params"])) if arm == "RLHF" else 0
    ended = soft(scores, known) if arm == "RLHF" else np.asarray(tabular(cell.program.tree, fit))
    assert row.records["mass"] == pytest.approx(np.exp(ended)[0, correct].sum())
    assert row.records["mass_gold"] == pytest.approx(np.exp(soft(gold, known))[0, correct].sum())
    assert row.records["regret"] == pytest.approx(regret(ended, row, known))
    local = np.where(np.abs(ended - known.reference) < 1e-9, 0, ended - known.reference)
    assert row.records["accuracy"] == pytest.approx(ranked(np.round(local, 9), gold, np.ones(27, bool)))
    labelled = np.concatenate([row.pairs[0].chosen, row.pairs[0].rejected])
    share = correct[np.asarray(cell.program.tree.leaf_index(labelled))].mean()
    assert share == pytest.approx(0.5, abs=0.04), "half of the labelled answers are right"


@pytest.mark.parametrize("free", [0, 1])
def test_three_arms_are_compared_as_often_as_told(free):
    cell = next(cell for cell in cells_of("rival_misspecification", setting="arms") if cell.numbers["free"] == free)
    for skew in (1.0, 100.0):
        row = wired("rival_misspecification", cell, skew=skew, pairs=20000)
        outcomes = row.fits[0]["train"]
        weight = np.zeros((3, 3))
        np.add.at(weight, (np.asarray(outcomes.chosen)[:, 0], np.asarray(outcomes.rejected)[:, 0]), outcomes.weight)
        times = weight + weight.T
        assert times.sum() / 2 == 16000
        assert times[0, 2] / times[0, 1] == pytest.approx(skew, rel=0.35)
        assert len(np.unique(outcomes.weight)) > 1
        dpo, rlhf = row.fits[:2]
        policy = rival_misspec_policy(free)
        ended = soft(policy.leaf_scores(dpo["params"]), dpo["known"])
        assert row.records["gold_reward_dpo"] == pytest.approx(np.sum(np.exp(ended) * row.reward))
        assert row.records["regret_dpo"] == pytest.approx(regret(ended, row, dpo["known"]))
        last = row.fits[-1]["params"]
        ended = soft(policy.leaf_scores(last), dpo["known"])
        assert row.records["regret_rlhf"] == pytest.approx(regret(ended, row, dpo["known"]))
        assert (row.records["penalty_dpo"], row.records["penalty_rlhf"]) == (1, 2)
        assert same(dpo["train"], rlhf["train"])


def rival_misspec_policy(free):
    features = np.column_stack([np.array(THETA), free * np.eye(3)])[None]
    return verifiers.linear(ARMS, jnp.asarray(features))


@pytest.mark.parametrize(("policy_order", "verifier_order"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_misspecified_trees_fit_the_classes_of_the_point(policy_order, verifier_order):
    orders = {"policy_order": policy_order, "verifier_order": verifier_order, "gold_order": 2}
    for cell in cells_of("rival_misspecification", setting="tree", horizon=2, pairs=256, **orders):
        if cell.table != "fits":
            continue
        row = wired("rival_misspecification", cell, **SPREAD)
        dpo, rlhf, second = row.fits
        tree = cell.program.tree
        ended = two_stage(tree, dpo, policy_order)
        assert row.records["regret_dpo"] == pytest.approx(regret(ended, row, dpo["known"]))
        assert np.size(rlhf["params"]) == np.size(verifiers.nested_interactions(tree, verifier_order).init(None))
        ended = two_stage(tree, {**second, "known": dpo["known"]}, policy_order)
        assert row.records["regret_rlhf"] == pytest.approx(regret(ended, row, dpo["known"]))


@pytest.mark.parametrize(("policy_order", "verifier_order"), [(1, 2), (2, 1)])
def test_equivalence_compares_the_two_ends(policy_order, verifier_order):
    cell = cell_of("equivalence", numbers={"policy_order": policy_order, "verifier_order": verifier_order})
    row = wired("equivalence", cell, beta=0.7)
    dpo, rlhf, second = row.fits
    tree, known = cell.program.tree, dpo["known"]
    offline = two_stage(tree, dpo, policy_order)
    ended = two_stage(tree, {**second, "known": known}, policy_order)
    assert row.records["kl"] == pytest.approx(kl(ended, offline, 1.0))
    assert row.records["total_variation"] == pytest.approx(np.abs(np.exp(ended) - np.exp(offline)).sum() / 2)
    assert row.records["regret_offline"] == pytest.approx(regret(offline, row, known))
    assert row.records["regret_two_stage"] == pytest.approx(regret(ended, row, known))
    assert dpo["settings"].penalties == (1.0,)
    assert same(dpo["train"], rlhf["train"])
    assert float(dpo["train"].weight.sum()) == cell.numbers["pairs"]


def test_token_arms_differ_in_the_reward_that_they_read():
    (cell,) = cells_of("token_tasks")
    kept = {}
    two_stage_arms = token_tasks_arms._two_stage

    def spied(scene):
        kept["scene"] = scene
        return two_stage_arms(scene)

    row = wired("token_tasks", cell, patches=[(token_tasks_arms, "_two_stage", spied)])
    scene = kept["scene"]
    offline, own, simple, *rl = row.fits
    family = token_tasks_arms.FAMILIES["token_counts"]
    assert all(same(fit["start"], scene.start) for fit in (offline, *rl))
    for fit, verifier, model in (
        (rl[0], verifiers.mlp_verifier(TOKENS, 2), own),
        (rl[1], family.verifier(scene.task), simple),
        (rl[2], token_tasks_arms.gold_verifier(scene), {"params": ()}),
    ):
        batch = fit["batch"]
        read = verifier.score(model["params"], jnp.asarray(batch.prompts), jnp.asarray(batch.responses))
        np.testing.assert_allclose(batch.reward.reshape(-1), read)
    coins, others = (wired("token_tasks", cell, informed=0, poison=gold).pairs[0] for gold in (unchanged, another))
    assert same(coins, others), "coins know nothing of the gold reward"
    assert same(coins.prompts, row.pairs[0].prompts)
    assert not same(coins, row.pairs[0])
