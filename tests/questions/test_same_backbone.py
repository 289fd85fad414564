"""One network for both methods: texts against enumeration, who starts where, what is trained, and the statistics."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.questions import same_backbone as question
from experiments.questions import same_backbone_arms as arms
from experiments.questions import same_backbone_records as statistics
from experiments.questions import same_backbone_scenes as scenes
from experiments.questions.same_backbone_scenes import Program
from gvgap_jax import TokenTree, complexity
from gvgap_jax.lm.model import nodes
from gvgap_jax.lm.model.shape import llama
from gvgap_jax.sweep import load
from tests.questions.wiring import another, cells_of, same, wired

KEY = jax.random.key(3)
TREE = TokenTree(3, 2)
SHAPE = llama(3, layers=2, width=16, heads=1)
NUMBERS = {
    "seed": 5, "text_scale": 1.5, "gold_order": 1, "pretrained": 1, "follows": scenes.GOES_ON, "informed": 1,
    "pairs": 50, "replicate": 0, "beta": 0.7, "temperature": 1.3, "moves": 2,
}  # fmt: skip


def scene(family="interactions", tree=TREE, **changes):
    return scenes.scene_of(Program(family, tree, SHAPE, 64), NUMBERS | changes)


def plain_law(scale: float, length: int) -> tuple[dict, dict]:
    """Probability of every text, and of it being of the first style, by multiplication along each chain."""
    logits = np.asarray(scale * jax.random.normal(KEY, (scenes.STYLES, 4, 3)))
    chains = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    law, first = {}, {}
    for text in itertools.product(range(3), repeat=length):
        each = [
            np.prod([chain[before, token] for before, token in zip((3, *text[:-1]), text, strict=True)])
            for chain in chains
        ]
        law[text], first[text] = np.mean(each), each[0] / scenes.STYLES
    return law, first


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.5])
def test_texts_are_a_mixture_of_chains(scale):
    told, (law, first) = scenes.texts(KEY, 3, 2, scale), plain_law(scale, 3)
    leaves = TokenTree(3, 3).leaf_log_probs(told.levels)
    np.testing.assert_allclose(np.exp(leaves[0]), list(law.values()), rtol=1e-6)
    law, first = plain_law(scale, 2)
    odds = [np.log(first[text] / (law[text] - first[text])) for text in law]
    np.testing.assert_allclose(told.style[0], odds, rtol=1e-6, atol=1e-9)


def distances(follows, reward=None, steps=400):
    """KL of every level of a language model from the texts' law, summed over prefixes by their probability."""
    told = scenes.texts(KEY, 3, 2, 1.5)
    prompts, reward = jnp.zeros((1, 0), int), jnp.zeros((1, 9)) if reward is None else reward
    start = scenes.transformer.init(SHAPE, 3, jax.random.key(0))
    params = scenes.pretrained(start, SHAPE, prompts, told.levels, reward, follows, steps)
    read = nodes.logits(SHAPE, params, nodes.states(SHAPE, params, prompts, 2))
    prefix, found = np.zeros((1, 1)), []
    for target, level in zip(told.levels, read, strict=True):
        apart = np.sum(np.exp(target) * (target - jax.nn.log_softmax(level)), axis=-1)
        found.append(float(np.sum(np.exp(prefix) * apart)))
        prefix = (prefix[..., None] + np.asarray(target)).reshape(1, -1)
    return found, read[-1]


def test_a_language_model_reads_texts_to_their_end_and_past_it():
    found, _ = distances(scenes.GOES_ON)
    assert max(found) < 2e-3
    ends, _ = distances(scenes.ENDS)
    assert max(ends[:-1]) < 2e-3
    assert ends[-1] > 10 * found[-1]  # no target where the text ends


def test_a_token_past_the_response_tells_of_gold():
    reward = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9)))
    _, last = distances(scenes.TELLS, reward)
    odds = np.asarray(last[0, :, 2] - last[0, :, 0])
    assert np.corrcoef(odds, reward[0])[0, 1] > 0.9
    _, other = distances(scenes.GOES_ON, reward)
    assert np.corrcoef(np.asarray(other[0, :, 2] - other[0, :, 0]), reward[0])[0, 1] < 0.9


def test_no_step_is_no_reading():
    start = scenes.transformer.init(SHAPE, 3, KEY)
    levels = scenes.texts(KEY, 3, 2, 1.5).levels
    kept = scenes.pretrained(start, SHAPE, jnp.zeros((1, 0), int), levels, jnp.zeros((1, 9)), scenes.GOES_ON, 0)
    assert same(start, kept)


@pytest.mark.parametrize("pretrained", [0, 1])
def test_policies_start_at_the_reference(pretrained, monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 30)
    here = scene(pretrained=pretrained)
    policy = arms.policy_of(here, 2)
    np.testing.assert_allclose(policy.leaf_log_probs(here.start), here.task.reference, rtol=1e-5, atol=1e-6)
    implied = arms.reward_model_of(here, 2, "final")
    assert not np.any(implied.leaf_scores(implied.init(KEY)))
    law = scenes.texts(jax.random.split(jax.random.key(5), 5)[0], 3, 2, 1.5).levels
    exact = np.asarray(TREE.leaf_log_probs(law[:-1]))
    apart = float(np.sum(np.exp(exact) * (exact - here.task.reference)))
    assert here.distance == pytest.approx(apart, abs=1e-6)
    assert (apart < 1e-6) == (not pretrained)  # random starts are given the law, networks have read it
    assert all(np.any(level) == (not pretrained) for level in here.base)
    assert np.any(here.start["head"]) == bool(pretrained)


def test_what_a_row_knows_is_its_own(monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 2)
    here = scene()
    known = here.problem.known
    assert (float(known.beta), float(known.temperature)) == (0.7, 1.3)
    assert same(known, here.task.known)
    coin = scene(informed=0)
    assert same(coin.task, here.task)
    assert not same(coin.problem.train, here.problem.train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SPREAD", 4.0)  # coin flips are the same whatever the gold reward
        assert same(scene(informed=0).problem.train, coin.problem.train)
    others = [scene(replicate=number) for number in (1, 2)]
    data = [each.problem.train.chosen for each in (here, *others)]
    assert all(same(each.task, here.task) for each in others)
    assert not any(same(one, other) for one, other in itertools.combinations(data, 2))


def interactions_up_to(reward, order: int) -> bool:
    """Whether a reward of two tokens is a sum of functions of so many of them."""
    table = np.asarray(reward).reshape(3, 3)
    left = table - table.mean(0, keepdims=True) - table.mean(1, keepdims=True) + table.mean()
    return order == 2 or np.abs(left).max() < 1e-6


@pytest.mark.parametrize(("family", "order"), [("interactions", 1), ("interactions", 2), ("style", 0)])
def test_gold_rewards_of_texts(family, order):
    style = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9)))
    prompts, reward = scenes.gold_reward(KEY, Program(family, TREE, SHAPE, 64), order, style)
    assert prompts.shape == (1, 0)
    assert abs(float(reward.mean())) < 1e-6
    assert float(jnp.std(reward)) == pytest.approx(scenes.SPREAD)
    if family == "style":
        assert np.corrcoef(reward[0], style[0])[0, 1] == pytest.approx(1.0)
    else:
        assert interactions_up_to(reward, order)
        assert interactions_up_to(reward, 1) == (order == 1)


@pytest.mark.parametrize("family", ["subset_sum", "colouring", "hidden_reference"])
def test_gold_rewards_of_token_families(family):
    tree = TokenTree(3, 2, 1)
    prompts, reward = scenes.gold_reward(KEY, Program(family, tree, SHAPE, 64), 0, jnp.zeros((1, 9)))
    task = scenes.FAMILIES[family].draw(KEY, scenes.Sizes(3, 2, 2, 3), 1.0)
    assert same(prompts, task.prompt_table)
    for row, prompt in enumerate(np.asarray(prompts)):
        answers = jnp.array(list(itertools.product(range(3), repeat=2)))
        plain = np.asarray(task.reward(jnp.tile(prompt, (9, 1)), answers), float)
        centred = plain - plain.mean()
        scaled = np.asarray(reward[row])
        assert centred @ scaled == pytest.approx(np.linalg.norm(centred) * np.linalg.norm(scaled), abs=1e-6)
        assert abs(scaled.mean()) < 1e-6


MOVING = {"head": {"head"}, "last layer": {"head", "last"}, "all": {"head", "last", "first", "ends"}}


@pytest.mark.parametrize("part", arms.TRAIN)
def test_only_what_is_trained_has_a_gradient(part, monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 2)
    here, trained = scene(), arms.TRAIN.index(part)
    policy, model = arms.policy_of(here, trained), arms.reward_model_of(here, trained, "final")
    read = model.init(KEY) | {"head": jnp.ones((16, 1))}
    for leaves, params in ((policy.leaf_log_probs, here.start), (model.leaf_scores, read)):
        gradient = jax.grad(lambda params, leaves=leaves: jnp.sum(leaves(params)[0] * jnp.arange(9)))(params)
        parts = {
            "head": gradient["head"],
            "ends": gradient["ends"],
            "first": jax.tree.map(lambda leaf: leaf[0], gradient["blocks"]),
            "last": jax.tree.map(lambda leaf: leaf[-1], gradient["blocks"]),
        }
        moving = {name for name, tree in parts.items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}
        assert moving == MOVING[part]


@pytest.mark.parametrize("read_out", ["final", "token_sum"])
def test_reward_models_read_what_they_say(read_out, monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 2)
    here = scene()
    model = arms.reward_model_of(here, 2, read_out)
    params = model.init(KEY) | {"head": jax.random.normal(KEY, (16, 1))}
    at = nodes.states(SHAPE, params, here.prompts, 2)
    first, last = (np.asarray(level @ params["head"])[0, :, 0] for level in at[1:])
    expected = last if read_out == "final" else last + np.repeat(first, 3)
    np.testing.assert_allclose(model.leaf_scores(params)[0], expected, rtol=1e-5)


def test_every_arm_learns_from_the_rows_pairs_at_the_rates_it_may_choose():
    (cell,) = cells_of("same_backbone")
    row = wired("same_backbone", cell)
    on_pairs = [fit for fit in row.fits if fit["kind"] == "pairs"]
    rates = [float(fit["settings"].learning_rate) for fit in on_pairs if fit["settings"].solver == "adam"]
    assert rates == pytest.approx(4 * list(arms.LEARNING_RATES))  # DPO, two read-outs, the implicit reward
    assert sum(fit["settings"].solver == "newton" for fit in on_pairs) == 2
    assert sum(fit["kind"] == "exact" for fit in row.fits) == 3
    blind = wired("same_backbone", cell, poison=another, given=row.pairs)
    assert same([fit["params"] for fit in row.fits], [fit["params"] for fit in blind.fits])


def test_regret_after_rare_prefixes_is_a_part_of_regret(monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 2)
    here = scene()
    rng = np.random.default_rng(2)
    policy = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(1, 9))))
    regret = float(jnp.sum(jnp.exp(policy) * (policy - here.task.optimal)))
    assert float(arms.rare_regret(policy, here, 0)) == pytest.approx(regret, rel=1e-5)
    assert float(arms.rare_regret(policy, here, 1e9)) == pytest.approx(0.0)
    own, best, seen = (
        np.exp(np.asarray(each)).reshape(3, 3) for each in (policy, here.task.optimal, here.task.reference)
    )
    pairs = arms.RARE / (2 * np.sort(seen.sum(1))[1]) * 1.01  # one first token is rare, two are not, the root is not
    expected = 0.0
    for token in range(3):
        if 2 * pairs * seen[token].sum() < arms.RARE:
            after, wanted = own[token] / own[token].sum(), best[token] / best[token].sum()
            expected += own[token].sum() * np.sum(after * np.log(after / wanted))
    assert expected > 0
    assert float(arms.rare_regret(policy, here, pairs)) == pytest.approx(expected, rel=1e-5)


def test_theory_is_asked_at_the_start_and_at_the_end(monkeypatch):
    monkeypatch.setattr(scenes, "PRETRAINING", 2)
    here = scene()
    model = arms.reward_model_of(here, 2, "final")
    start, end = model.init(KEY), jax.tree.map(lambda leaf: leaf + 0.1, model.init(KEY))
    outcome = arms.Outcome(here.task.reference, here.task.reference, _Ended(end), model.leaf_scores, start)
    (said,) = arms.predicted(here, {"RLHF": outcome}, 50).values()
    for name, params in (("law", start), ("law_after", end)):
        features = complexity.tangent_features(model.leaf_scores, params, arms.DIRECTIONS)
        counts = jnp.array([50.0])
        fitted = arms.prediction.of_features(features)
        found = arms.prediction.predict(fitted, here.task, 0.8 * counts, 0.2 * counts)
        expected = float(found.typical[0]) if bool(found.trusted[0]) else 0.0
        assert float(said[name]) == pytest.approx(expected, rel=1e-4)
    assert float(said["law"]) != float(said["law_after"])
    predict = arms.prediction.predict

    def doubtful(*given):
        return predict(*given)._replace(trusted=jnp.array([False]))

    monkeypatch.setattr(arms.prediction, "predict", doubtful)
    (said,) = arms.predicted(here, {"RLHF": outcome}, 50).values()
    assert float(said["law"]) == float(said["law_after"]) == 0.0


class _Ended:
    """What is asked for of a fit."""

    def __init__(self, params, converged=True):
        self.params, self.converged = params, converged


def test_networks_have_a_budget_and_tables_are_solved():
    law = jnp.full((1, 9), -np.log(9))
    ended, going_on = (_Ended((), jnp.array(converged)) for converged in (True, False))
    outcomes = {arm: arms.Outcome(law, law, going_on) for arm in arms.ARMS}
    tables = {arm: arms.Outcome(law, law, ended) for arm in (arms.TABLE_DPO, arms.TABLE_RLHF)}
    assert arms.converged(outcomes | tables)
    assert not arms.converged(outcomes | {arms.TABLE_DPO: tables[arms.TABLE_DPO]})
    for arm in arms.ARMS:
        broken = (outcomes | tables)[arm]._replace(log_policy=law * jnp.nan)
        assert not arms.converged(outcomes | tables | {arm: broken})


@pytest.fixture
def made(records):
    """The tiny preset's records, of 18 made-up seeds: DPO's regret is twice that of the final state's arm."""
    frame = load(records("same_backbone"), "fits")
    rows = pl.concat([frame.with_columns(seed=frame["seed"] + 2 * number) for number in range(9)])
    noise = (0.1 * (-1.0) ** pl.col("seed")).exp()
    numbers = {
        "DPO: regret": 0.2 * noise, "RLHF, final state: regret": 0.1, "RLHF, token sum: regret": 0.4,
        "RLHF, tables: regret": 0.1, "DPO, tables: regret": 0.1 * noise,
        "DPO: law": 0.3, "RLHF, final state: law": 0.1, "RLHF, token sum: law": 0.0,
    }  # fmt: skip
    return rows.with_columns(**numbers, pairs=pl.lit(512, frame["pairs"].dtype), status=pl.lit("ok"))


def findings(rows):
    return {finding.claim: finding for finding in question.findings({"fits": rows})}


def of_claims(rows, *parts: str):
    found = [each for claim, each in findings(rows).items() if all(part in claim for part in parts)]
    assert len(found) == 1, list(findings(rows))
    return found[0]


def test_a_ratio_is_of_dpo_over_the_arm(made):
    final = of_claims(made, "regret (KL to the optimal policy) of DPO over that of RLHF, final state", "s.d. 1.5")
    assert final.interval.estimate == pytest.approx(2.0)
    assert final.verdict == "supported"
    assert final.predicted == pytest.approx(3.0)
    ends = {"DPO: exact_regret": pl.lit(0.2), "RLHF, final state: exact_regret": pl.lit(0.05)}
    exact = of_claims(made.with_columns(**ends), "whose second stage reaches every policy")
    assert exact.interval.estimate == pytest.approx(4.0)
    assert not [claim for claim in findings(point(made, gold_order=2)) if "tables" in claim or "whose second" in claim]
    rare = {"DPO: rare_regret": pl.lit(0.3), "RLHF, final state: rare_regret": pl.lit(0.1)}
    assert of_claims(made.with_columns(**rare), "rare in the pairs").interval.estimate == pytest.approx(3.0)
    assert not [claim for claim in findings(point(made, gold="style", gold_order=0)) if "rare" in claim]
    summed = of_claims(made, "over that of RLHF, token sum", "s.d. 1.5, order 1")
    assert summed.interval.estimate == pytest.approx(0.5)
    assert summed.verdict == "contradicted"
    assert np.isnan(summed.predicted)  # theory says nothing
    tables = of_claims(made, "both over tables")
    assert tables.interval.estimate == pytest.approx(1.0)


def point(rows, **changes):
    return rows.with_columns(**{name: pl.lit(value, rows[name].dtype) for name, value in changes.items()})


def times(rows, arm, factor):
    return rows.with_columns((pl.col(f"{arm}: regret") * factor).alias(f"{arm}: regret"))


@pytest.mark.parametrize(
    ("words", "far", "near"),
    [
        ("texts of s.d. 1.5 over those of 0.4", {}, {"text_scale": 0.4}),
        ("their own style over order 1", {"gold": "style", "gold_order": 0}, {}),
        ("texts that were read over none", {}, {"start": "random"}),
        ("texts that go on over texts that end", {}, {"start": "text that ends"}),
        ("texts that tell of gold over others", {"start": "text with gold"}, {}),
        ("all trained over the head alone", {}, {"trained": "head"}),
        ("all trained over the last layer", {}, {"trained": "last layer"}),
    ],
)
def test_a_factor_is_the_ratio_of_two_points(made, words, far, near):
    both = pl.concat([times(point(made, **far), "DPO", 3.0), point(made, **near)])
    found = of_claims(both, words, "final state")
    assert found.interval.estimate == pytest.approx(3.0)


def test_a_puzzle_is_compared_with_a_hidden_reference(made):
    easy, hard = (point(made, gold=gold, gold_order=0) for gold in ("subset_sum", "hidden_reference"))
    found = of_claims(pl.concat([times(easy, "DPO", 5.0), hard]), "subset sum over a hidden reference")
    assert found.interval.estimate == pytest.approx(5.0)


def test_a_slope_is_on_the_logarithm_of_pairs(made):
    more = times(point(made, pairs=2048), "DPO", 4.0)
    found = of_claims(pl.concat([made, more]), "slope", "final state")
    assert found.interval.estimate == pytest.approx(1.0)


def test_points_that_are_not_of_the_base_cells_network_are_factors(made):
    claims = findings(pl.concat([made, point(made, start="random")]))
    assert not [claim for claim in claims if "random" in claim]


def test_theory_is_judged_on_points_with_several_data_sets(made):
    """Two data sets whose log regret differs by .2: the law is off by .1 on each, as a mean of both would be."""
    assert not [claim for claim in findings(made) if "tangent" in claim]
    other = point(made, replicate=1)
    both = pl.concat([times(made, "DPO", np.exp(-0.1)), times(other, "DPO", np.exp(0.1))])
    table = statistics.replicated(both).filter(arm="DPO", seed=0)
    regret = np.exp(0.1)
    np.testing.assert_allclose(table["log_regret"], np.log(0.2 * regret) + np.array([-0.1, 0.1]), rtol=1e-6)
    np.testing.assert_allclose(table["noise"], 0.02, rtol=1e-5)
    np.testing.assert_allclose(table["law"], np.log(0.3), rtol=1e-6)
    signs = statistics.signs(both, "law")
    final = signs.filter(arm="RLHF, final state")
    assert final["higher"].all()
    assert final["law"].all()
    assert signs.filter(arm="RLHF, token sum")["higher"].is_null().all()  # theory says nothing of it
    assert [claim for claim in findings(both) if "tangent" in claim]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("start", "texts", "text"),
        ("trained", "body", "head"),
        ("gold", "sudoku", "interactions"),
        ("width", 24, "multiple of 16"),
        ("text_scale", -1.0, "at least 0"),
    ],
)
def test_a_setting_that_is_none_is_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        question.Config(**{field: value})


def test_no_point_has_an_order_above_the_horizon():
    assert not question.cells(question.Config(horizon=2, gold_order=3))
    (style,), (other,) = (question.cells(question.Config(gold="style", gold_order=order)) for order in (1, 2))
    assert style == other  # it has no order
