"""The wiring of the recipe: who starts where, what is trained on what, who is judged by whom, and with which keys.

Every stage runs, one after another, but for the work itself: ``fit`` moves parameters a little, and passes return
numbers that tell which model made them.
"""

import dataclasses
import json
import zlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tldr import corpus, evaluation, judging, models, passes, stages, toy
from experiments.tldr.run import Run
from experiments.tldr.settings import AGAIN, ARMS, BEST_OF_N, PRESETS, Descent, Sizes, training
from gvgap_jax.lm.data import read
from gvgap_jax.lm.judges import verdicts
from gvgap_jax.lm.model import classes
from gvgap_jax.lm.model.decode import Decoding
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.runtime.files import read as read_table
from gvgap_jax.training import layouts, objectives
from gvgap_jax.training.train import Trained
from gvgap_jax.types import PADDING, Fit

POST = {"subreddit": "advice", "title": "what about my dog", "post": "so my dog moved out ."}
RECIPE = dataclasses.replace(
    PRESETS["laptop"],
    data=dataclasses.replace(PRESETS["laptop"].data, limit=80),
    sft=Descent(batch=4, learning_rate=0.1, schedule="cosine", epochs=2),
    rm=Descent(batch=6, learning_rate=0.2, schedule="constant", epochs=3, accumulate=2),
    dpo=Descent(batch=8, learning_rate=0.3, schedule="linear", epochs=1),
    beta=0.25,
    samples=3,
    temperature=0.9,
    evaluation_temperature=0.4,
    online_prompts=16,
    evaluation_prompts=6,
)
# stage: where it starts, what it is trained by, whether it has a scalar head
TRAININGS = {
    "sft": ("base", "sft", False),
    "reward_model": ("sft", "rm", True),
    "judge": ("sft", "rm", True),
    "dpo": ("sft", "dpo", False),
    "online_from_sft": ("sft", "dpo", False),
    "online_from_dpo": ("dpo", "dpo", False),
}
every_training = pytest.mark.parametrize("stage", TRAININGS)


def number_of(text):
    return zlib.crc32(text.encode())


def stage_of(model):
    """Which stage left a model."""
    return model.checkpoint.folder.parent.name.rpartition("-")[0]


def told(kind, model, responses):
    """Numbers [N, m] that tell model and response."""
    weights = np.random.default_rng(number_of(f"{kind} {stage_of(model)}")).normal(size=200)
    return np.where(responses >= 0, weights[responses], 0.0).sum(axis=-1)


class Work:
    """What is done in place of the work, and what of it was asked for."""

    def __init__(self):
        self.fits, self.passes = {}, {}

    def fit(self, build, data, settings, key, learning_rate, *, start, layout, keep, monitor):
        stage = keep.folder.parent.name.rpartition("-")[0]
        self.fits[stage] = SimpleNamespace(
            build=build, data=data, settings=settings, key=key, rate=learning_rate, start=start, keep=keep
        )
        moved = jax.tree.map(lambda leaf: leaf + number_of(stage) % 1000 / 1e4, start)
        return Trained(Fit(moved, *np.zeros(5), True), None, ("done",))

    def sampled(self, run, name, model, prompts, samples, temperature):
        assert name not in self.passes
        self.passes[name] = SimpleNamespace(model=stage_of(model), prompts=prompts, temperature=temperature)
        horizon = run.recipe.data.response_tokens
        drawn = np.random.default_rng(number_of(name)).integers(3, 100, (len(prompts), samples, horizon))
        drawn[..., 4:] = PADDING
        drawn[0] = drawn[0, :1]  # a prompt whose responses tie
        return drawn

    def rewards(self, run, name, model, prompts, responses):
        self.passes[name] = SimpleNamespace(model=stage_of(model), prompts=prompts, responses=responses)
        return told("reward", model, responses)

    def log_probs(self, run, name, model, prompts, responses):
        self.passes[name] = SimpleNamespace(model=stage_of(model), prompts=prompts, responses=responses)
        return told("log", model, responses)


def patched(patch, work):
    patch.setattr(stages, "fit", work.fit)
    for name in ("sampled", "rewards", "log_probs"):
        patch.setattr(passes, name, getattr(work, name))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The run, its text, what is held out, and what its stages asked for."""
    folder = tmp_path_factory.mktemp("wired")
    toy._write_data(folder / "toy", 0)
    toy.write_model(folder / "toy" / "model", layers=1, width=8)
    run = Run(RECIPE, folder_at(folder / "seed-0"), layouts.layout(-1), lambda: False)
    return gone_through(run)


def gone_through(run):
    """The run after all of its stages, and what of the work was asked for."""
    run, text, unseen = corpus.prepare(run)
    work = Work()
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, work)
        stages.sft(run, text)
        stages.rm(run, text)
        stages.judge(run, unseen)
        stages.dpo(run, text)
        stages.online_dpo(run, text)
        evaluation.evaluate(run, text, unseen)
    return SimpleNamespace(run=run, text=text, unseen=unseen, work=work)


def parameters(run, stage, scalar):
    model = models.opened(run, run.folder.parent / "toy" / "model") if stage == "base" else models.trained(run, stage)
    return models.parameters(run, model, 1 if scalar else None)


@every_training
def test_every_training_starts_where_it_should(done, stage):
    start, _, scalar = TRAININGS[stage]
    found, wanted = done.work.fits[stage].start, parameters(done.run, start, scalar)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert all(np.array_equal(*leaves) for leaves in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))
    assert found["head"].shape[-1] == (1 if scalar else done.text.model.shape.vocabulary)
    others = {each for each, *_ in TRAININGS.values()} - {start}
    embedding = np.asarray(found["ends"]["embedding"]["embedding"])
    assert all(
        np.abs(embedding - parameters(done.run, other, scalar)["ends"]["embedding"]["embedding"]).max() > 0
        for other in others
    )


@every_training
def test_every_training_has_its_own_settings_key_and_place(done, stage):
    found, (_, name, _) = done.work.fits[stage], TRAININGS[stage]
    how = getattr(RECIPE, name)
    rows = {
        "sft": len(done.text.demonstrations.weight),
        "judge": len(done.unseen.pairs.weight),
        "online_from_sft": RECIPE.online_prompts,
        "online_from_dpo": RECIPE.online_prompts,
    }.get(stage, len(done.text.comparisons.rows))
    assert (found.rate, found.settings) == (how.learning_rate, training(name, RECIPE, rows))
    assert (found.settings.steps - 1) * how.batch < how.epochs * rows <= found.settings.steps * how.batch
    assert (found.settings.accumulate, found.settings.schedule) == (how.accumulate, how.schedule)
    assert len(found.data.weight) == rows
    assert jax.random.key_data(found.key).tolist() == jax.random.key_data(done.run.key(stage)).tolist()
    assert found.keep.folder == done.run.folder / f"{stage}-{done.run.made[stage].key}" / "training"
    assert found.keep.description == done.run.made[stage]._asdict()


def test_every_purpose_and_every_seed_has_a_key_of_its_own(done):
    purposes = [*done.work.fits, "rm_sft", "pairs", *done.work.passes]
    runs = done.run, done.run._replace(recipe=dataclasses.replace(RECIPE, seed=1))
    keys = {jax.random.key_data(run.key(purpose)).tobytes() for run in runs for purpose in purposes}
    assert len(keys) == 2 * len(purposes)


def same(found, wanted):
    """Whether rows are the first ones of others."""
    return np.array_equal(found, wanted[: len(found)])


def test_sft_imitates_demonstrations_of_training_prompts(done, monkeypatch):
    found, wanted = done.work.fits["sft"].data, done.text.demonstrations
    assert all(same(*each) for each in zip(found, wanted, strict=True))


def test_the_reward_model_and_dpo_see_the_same_pairs_and_the_judge_others(done):
    fits, pairs = done.work.fits, done.text.comparisons.data
    for name in ("prompts", "chosen", "rejected", "weight"):
        for stage in ("reward_model", "dpo"):
            assert same(getattr(fits[stage].data, name), getattr(pairs, name))
        assert same(getattr(fits["judge"].data, name), getattr(done.unseen.pairs, name))
    margin = np.subtract(
        *(told("log", models.trained(done.run, "sft"), side) for side in (pairs.chosen, pairs.rejected))
    )
    np.testing.assert_allclose(fits["dpo"].data.reference_margin, margin[: len(fits["dpo"].data.weight)], rtol=1e-5)
    assert done.work.passes["dpo-reference"].model == "sft", "the reference is SFT's"


@pytest.mark.parametrize("start", ["sft", "dpo"])
def test_an_online_round_is_labelled_by_the_learned_reward_model_on_the_starting_policys_responses(done, start):
    stage, asked = f"online_from_{start}", done.work.passes
    drawn = asked[f"{stage}-samples"]
    assert (drawn.model, drawn.temperature) == (start, RECIPE.temperature)
    unique = {tuple(row) for row in done.text.comparisons.data.prompts.tolist()}
    assert {tuple(row) for row in drawn.prompts.tolist()} <= unique
    assert len(drawn.prompts) == len({tuple(row) for row in drawn.prompts.tolist()}) == RECIPE.online_prompts
    scored = asked[f"{stage}-rewards"]
    assert scored.model == "reward_model"
    reward = told("reward", models.trained(done.run, "reward_model"), scored.responses)
    rows, data = np.arange(len(reward)), done.work.fits[stage].data
    np.testing.assert_array_equal(data.prompts, drawn.prompts)
    np.testing.assert_array_equal(data.chosen, scored.responses[rows, reward.argmax(axis=1)])
    np.testing.assert_array_equal(data.rejected, scored.responses[rows, reward.argmin(axis=1)])
    np.testing.assert_array_equal(data.weight, [0, *np.ones(len(rows) - 1)])
    sft = models.trained(done.run, "sft")
    np.testing.assert_allclose(
        data.reference_margin, told("log", sft, data.chosen) - told("log", sft, data.rejected), rtol=1e-5
    )
    assert asked[f"{stage}-reference"].model == "sft", "the reference is SFT's, wherever the round starts"


@every_training
def test_objectives_have_the_batch_and_the_beta_of_the_recipe(done, stage, monkeypatch):
    made = []
    for name in ("sft", "reward_model", "dpo"):
        monkeypatch.setattr(objectives, name, lambda *given, name=name, **how: made.append((name, *given[1:], how)))
    found, data = done.work.fits[stage], object()
    found.build(data)
    batch = getattr(RECIPE, TRAININGS[stage][1]).batch
    kind = {"sft": "sft", "reward_model": "reward_model", "judge": "reward_model"}.get(stage, "dpo")
    assert made == [(kind, data, {"batch": batch} | ({"beta": RECIPE.beta} if kind == "dpo" else {}))]


def test_no_held_out_prompt_is_trained_on(done):
    def texts(prompts):
        return set(done.text.prompts(prompts))

    seen = texts(done.text.demonstrations.prompts) | texts(done.text.comparisons.data.prompts)
    asked, judged = (texts(each.prompts) for each in (done.unseen.questions.data, done.unseen.pairs))
    assert min(len(seen), len(asked), len(judged)) > 4
    assert not seen & (asked | judged)


def tables(done):
    folder = done.run.folder / "evaluate"
    return [read_table(folder / f"{table}.parquet") for table in ("answers", "verdicts", "pairs")]


def judged(done, patch=None, **changed):
    """What the evaluation of the finished run asks for, and its tables."""
    work = Work()
    run, *_ = corpus.prepare(done.run._replace(recipe=dataclasses.replace(RECIPE, **changed)))
    for table in (run.folder / "evaluate").iterdir():
        table.unlink()
    with pytest.MonkeyPatch.context() as own:
        patched(own, work)
        evaluation.evaluate(run, done.text, done.unseen)
    return work.passes, tables(done)


def test_every_arm_answers_held_out_prompts_by_its_own_policy_at_the_temperature_of_evaluation(done):
    asked, questions = done.work.passes, done.unseen.questions.data
    policies = {arm: arm for arm in ARMS} | {AGAIN: "sft", BEST_OF_N: "sft"}
    for arm in ARMS:
        found = asked[f"evaluate-{arm}"]
        temperature = RECIPE.temperature if arm == BEST_OF_N else RECIPE.evaluation_temperature
        assert (found.model, found.temperature) == (policies[arm], temperature), arm
        np.testing.assert_array_equal(found.prompts, questions.prompts)
    answers = tables(done)[0]
    for arm in set(ARMS) - {BEST_OF_N}:
        own, reference = (asked[f"evaluate-{arm}-{which}"] for which in ("own", "reference"))
        assert (own.model, reference.model) == (policies[arm], "sft")
        ratio = [told("log", models.trained(done.run, each.model), each.responses)[:, 0] for each in (own, reference)]
        np.testing.assert_allclose(answers.filter(arm=arm)["log_ratio"], ratio[0] - ratio[1], rtol=1e-6)
    assert (answers.filter(arm="sft")["log_ratio"] == 0).all()
    assert answers.filter(arm=BEST_OF_N)["log_ratio"].is_nan().all()
    assert answers.filter(arm="sft")["answer"].to_list() != answers.filter(arm=AGAIN)["answer"].to_list()


def test_best_of_n_takes_what_the_learned_reward_model_likes_best_whatever_judges_think(done, monkeypatch):
    found = done.work.passes[f"evaluate-{BEST_OF_N}-rewards"]
    assert (found.model, found.responses.shape[1]) == ("reward_model", RECIPE.samples)
    reward = told("reward", models.trained(done.run, "reward_model"), found.responses)
    best = found.responses[np.arange(len(reward)), reward.argmax(axis=1)]
    answers = tables(done)[0]
    assert answers.filter(arm=BEST_OF_N)["answer"].to_list() == done.text.decoded(best)
    monkeypatch.setattr(toy, "gold", lambda prompts, responses: np.full(len(prompts), np.nan))
    _, (blind, verdicts, _) = judged(done)
    assert blind.drop("gold").equals(answers.drop("gold"))
    assert verdicts.filter(judge="gold")["win"].is_nan().all()
    monkeypatch.undo()
    judged(done)


def test_a_win_is_the_arms_answer_better_than_the_human_one(done):
    answers, verdicts, _ = tables(done)
    humans = done.unseen.questions.data.responses
    referee = models.trained(done.run, "judge")
    assert answers["human"].to_list()[: len(humans)] == done.text.decoded(humans)
    for arm in ARMS:
        asked = done.work.passes[f"judge-held_out_reward_model-{arm}"]
        assert asked.model == "judge", "not the reward model that was learned from the training pairs"
        np.testing.assert_array_equal(asked.prompts, done.unseen.questions.data.prompts)
        np.testing.assert_array_equal(asked.responses[:, 1], humans)
        one, other = told("reward", referee, asked.responses).T
        wins = verdicts.filter(judge="held_out_reward_model", arm=arm).sort("question")["win"].to_list()
        assert wins == ((one > other) + 0.5 * (one == other)).tolist()
        mine = answers.filter(arm=arm).sort("question")
        gold = [toy.gold(mine["prompt"].to_list(), mine[text].to_list()) for text in ("answer", "human")]
        wanted = ((gold[0] > gold[1]) + 0.5 * (gold[0] == gold[1])).tolist()
        assert verdicts.filter(judge="gold", arm=arm).sort("question")["win"].to_list() == wanted


def test_held_out_pairs_are_scored_by_the_global_and_the_local_reward(done):
    pairs, (*_, found) = done.unseen.pairs, tables(done)

    def margin(kind, stage):
        return np.subtract(
            *(told(kind, models.trained(done.run, stage), side) for side in (pairs.chosen, pairs.rejected))
        )

    np.testing.assert_allclose(found.filter(rewards="global")["margin"], margin("reward", "reward_model"), rtol=1e-6)
    local = RECIPE.beta * (margin("log", "dpo") - margin("log", "sft"))
    np.testing.assert_allclose(found.filter(rewards="local")["margin"], local, rtol=1e-4, atol=1e-6)


def test_another_judge_stores_what_it_says_under_another_name(done):
    """The folder of a run may be judged again: what one judge said must not be taken for what another one says."""
    for stage in ("reward_model", "judge"):
        asked, _ = judged(done, gold_model=str(done.run.place(stage) / "model"))
        assert {asked[name].model for name in asked if "held_out_reward_model" in name} == {stage}
    judged(done)


@pytest.mark.parametrize(
    ("source", "gold_model"), [("gold", None), ("rouge_l", None), ("reward_model", "judge"), ("endpoint", None)]
)
def test_who_relabels(done, source, gold_model, monkeypatch):
    asked = []
    for name in ("gold", "rouge_l"):
        monkeypatch.setattr(judging, name, lambda *given, name=name: asked.append(name))
    monkeypatch.setattr(judging, "_endpoint", lambda run: lambda *given: asked.append("endpoint"))
    work = Work()
    patched(monkeypatch, work)
    variant = {"rouge_l": True} if source == "rouge_l" else {"narrow": True, "labeller": source}
    variant |= {"gold_model": str(done.run.place(gold_model) / "model")} if gold_model else {}
    variant |= {"endpoint": dataclasses.replace(RECIPE.endpoint, model="m")} if source == "endpoint" else {}
    run = done.run._replace(recipe=dataclasses.replace(RECIPE, **variant))
    questions = [verdicts.Question("post", text, "other") for text in ("one", "more")]
    judging.labeller(run)("labels", judging.Asked(questions, *(np.zeros((2, 3), int) for _ in range(3)), [POST] * 2))
    assert asked == ([] if gold_model else [source])
    assert [each.model for each in work.passes.values()] == ([gold_model] if gold_model else [])


def test_a_gold_model_that_relabels_reads_the_prompts_of_the_pairs(done, monkeypatch):
    work = Work()
    patched(monkeypatch, work)
    variant = {"narrow": True, "labeller": "reward_model", "gold_model": str(done.run.place("judge") / "model")}
    run, *_ = corpus.prepare(done.run._replace(recipe=dataclasses.replace(RECIPE, **variant)))
    corpus.training_pairs(run, done.text)
    asked, drawn_for = (
        [row[row >= 0].tolist() for row in work.passes[name].prompts] for name in ("judge-labels", "pairs")
    )
    rest = iter(drawn_for)
    assert len(asked) > len(drawn_for) / 2
    assert all(prompt in rest for prompt in asked), "in the order of the pairs, of which some are left out"


def test_reward_models_of_another_size_begin_from_their_own_sft(done, tmp_path, monkeypatch):
    toy.write_model(tmp_path / "small", layers=1, width=32)
    run = done.run._replace(recipe=dataclasses.replace(RECIPE, rm_size=str(tmp_path / "small")))
    run, text, _ = corpus.prepare(run)
    trained = []
    monkeypatch.setattr(stages, "_train", lambda run, stage, model, *_: trained.append((stage, model.shape.width)))
    stages.sft(run, text)
    assert trained == [("sft", 8), ("rm_sft", 32)]
    monkeypatch.undo()
    work = Work()
    patched(monkeypatch, work)
    stages.sft(run, text)
    assert set(work.fits) == {"rm_sft"}, "the policy's SFT is done"
    monkeypatch.setattr(stages, "_train", lambda run, stage, model, *_: trained.append((stage, stage_of(model))))
    stages.rm(run, done.text)
    stages.judge(run, done.unseen)
    assert trained[2:] == [("reward_model", "rm_sft"), ("judge", "rm_sft")]


def test_narrow_pairs_are_drawn_from_the_sft_policy_and_labelled_by_who_relabels(done, monkeypatch):
    work = Work()
    patched(monkeypatch, work)
    run, *_ = corpus.prepare(done.run._replace(recipe=dataclasses.replace(RECIPE, narrow=True)))
    pairs = corpus.training_pairs(run, done.text)
    drawn = work.passes["pairs"]
    assert (drawn.model, drawn.temperature) == ("sft", RECIPE.temperature)
    np.testing.assert_array_equal(drawn.prompts, done.text.comparisons.data.prompts)
    asked = done.text.prompts(pairs.prompts)
    chosen, rejected = (toy.gold(asked, done.text.decoded(side)) for side in (pairs.chosen, pairs.rejected))
    assert len(chosen) > 5
    assert (chosen > rejected).all()


def test_relabelled_pairs_have_the_winner_first_and_no_ties():
    first, second, prompts = np.arange(4)[:, None], 10 + np.arange(4)[:, None], 20 + np.arange(4)[:, None]
    pairs = corpus._ordered(judging.Asked([], prompts, first, second), np.array([1, 0, 0.5, np.nan]))
    assert [np.ravel(each).tolist() for each in pairs] == [[20, 21], [0, 11], [10, 1], [0, 0], [1, 1]]


def test_samples_have_the_temperature_the_end_token_and_the_key_that_they_are_asked_with(done, monkeypatch):
    made = []

    def sampler(shape, horizon, decoding, samples, layout):
        made.append((horizon, decoding.temperature, decoding.top_k, decoding.top_p, decoding.end, samples))
        return lambda params, number, prompts, key: {
            "tokens": np.full((len(prompts), samples, horizon), jax.random.key_data(key)[1] % 1000 + number)
        }

    monkeypatch.setattr(passes, "sampler", sampler)
    model, prompts = models.trained(done.run, "sft"), done.text.comparisons.data.prompts
    run = done.run._replace(recipe=dataclasses.replace(RECIPE, chunk=40))
    found = {name: passes.sampled(run, name, model, prompts[:50], 2, 0.3) for name in ("one", "other")}
    assert made == [(24, 0.3, None, None, model.end, 2)] * 2
    for name, drawn in found.items():
        first = int(jax.random.key_data(run.key(name))[1]) % 1000
        assert drawn[:, 0, 0].tolist() == [first] * 40 + [first + 1] * 10, "a chunk draws by its number"
    assert not np.array_equal(*found.values())


def test_every_prompt_is_asked_as_often_as_wanted_and_every_chunk_with_another_key(done, monkeypatch):
    def sample(key, params, asked):
        return jnp.stack([asked[:, 0], jnp.full(len(asked), jax.random.key_data(key)[1].astype(int))], axis=1)

    given = []
    monkeypatch.setattr(classes, "transformer_policy", lambda *how: given.append(how) or SimpleNamespace(sample=sample))
    draw = passes.sampler.__wrapped__("shape", 2, Decoding(0.3), 3, done.run.layout)
    prompts, keys = np.arange(4)[:, None], jax.random.split(jax.random.key(0))
    drawn = [draw({}, np.int32(number), prompts, key=key)["tokens"] for number in (0, 1) for key in keys]
    assert given == [("shape", 2, Decoding(0.3))]
    assert all(each[..., 0].tolist() == [[row] * 3 for row in range(4)] for each in drawn)
    assert len({int(each[0, 0, 1]) for each in drawn}) == 4


def test_online_prompts_are_asked_once_in_their_order(done):
    comparisons = done.text.comparisons
    twice = jax.tree.map(lambda rows: np.concatenate([rows[:6], rows[:3], rows[4:9]]), comparisons.data)
    run = done.run._replace(recipe=dataclasses.replace(RECIPE, online_prompts=8))
    found = corpus.online_prompts(run, done.text._replace(comparisons=comparisons._replace(data=twice)))
    np.testing.assert_array_equal(found, comparisons.data.prompts[:8])


def test_a_layout_of_one_device_is_the_default():
    assert Sizes() == Sizes(data=-1, fsdp=1, tensor=1)


def test_a_prompt_is_on_one_side_however_it_is_written(done, tmp_path):
    """Fields in one file and the text of the same post in another are one prompt."""
    source = done.run.folder.parent / "toy" / "demonstrations.jsonl"
    rows = read.read_demonstrations(source).rows
    lines = [
        {"prompt": done.text.format.prompt(row.prompt, done.text.tokenizer), "completion": row.response} for row in rows
    ]
    (tmp_path / "written.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sides = []
    for path in (source, tmp_path / "written.jsonl"):
        data = dataclasses.replace(RECIPE.data, demonstrations=(str(path),))
        run = done.run._replace(recipe=dataclasses.replace(RECIPE, data=data))
        sides.append([[row.response for row in side] for side in corpus._split(run, "demonstrations")])
    assert sides[0] == sides[1]
