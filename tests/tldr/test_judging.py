"""A reward model from elsewhere judges: it reads texts through its own tokenizer, template, start and end tokens."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.tldr import judging, models, passes
from experiments.tldr.run import Run
from experiments.tldr.settings import PRESETS, TEMPLATES, Endpoint
from gvgap_jax.lm.hf import architectures, save
from gvgap_jax.lm.judges import endpoint, verdicts
from gvgap_jax.lm.judges.verdicts import Question
from gvgap_jax.lm.model import shape, transformer
from gvgap_jax.training import layouts
from tests.lm.tiny_tokenizer import CHATML, END, TURN, write_kind, write_tokenizer

POST = {"subreddit": "bread", "title": "Help", "post": "The dog ate my bread."}
TALK = [{"role": "user", "content": "How do I bake bread?"}]
QUESTIONS = [Question("p", "The dog.", "Bread."), Question("p", "bread " * 600, "Bread."), Question("p", "a", "a")]
NONSENSE = np.full((3, 2), 7, np.int32)  # what the policy's tokenizer made of it, which says nothing to others


def write_judge(folder, write, positions=512, **settings):
    """A random reward model, with the tokenizer that is written into its folder."""
    size = shape.llama(500, layers=1, width=16, heads=2, start=False)
    config = architectures.config_of(size, positions)
    params = transformer.init(size, 1, jax.random.key(0))
    save.save(folder, config, params | {"head": jax.random.normal(jax.random.key(1), params["head"].shape)})
    write(folder, **settings)
    return str(folder)


JUDGES = {
    "bytes and a chat template": (
        lambda folder, **more: write_tokenizer(folder, CHATML, **more),
        {"eos_token": TURN},
        lambda talk, answer: f"<|im_start|>user\n{talk}{TURN}\n<|im_start|>assistant\n¦{answer}{TURN}\n",
    ),
    "SentencePiece without a template": (
        lambda folder, **more: write_kind(folder, "a blank before all, as Llama 2", **more),
        {},
        lambda talk, answer: f"<s>\n\nHuman: {talk}\n\nAssistant:¦ {answer}</s>",
    ),
}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "seed-0"
    folder.mkdir()
    recipe = dataclasses.replace(PRESETS["laptop"], dtype="float32", remat=False, chunk=2)
    return Run(recipe, folder, layouts.layout(-1), lambda: False)


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_reads_texts_in_its_own_way(run, tmp_path, name, monkeypatch, capsys):
    write, settings, written = JUDGES[name]
    source = write_judge(tmp_path / "judge", write, **settings)
    given, rewards = {}, passes.rewards

    def watched(run, name, model, prompts, responses):
        given.update(prompts=prompts, responses=responses, scores=rewards(run, name, model, prompts, responses))
        return given["scores"]

    monkeypatch.setattr(passes, "rewards", watched)
    run = run._replace(recipe=dataclasses.replace(run.recipe, gold_model=source))
    said = judging.judges_of(run)["held_out_reward_model"](
        "m", judging.Asked(QUESTIONS, NONSENSE, NONSENSE, NONSENSE, [TALK, TALK, TALK])
    )
    inner = models.gold(run, source).tokenizer.inner
    asked, whole = written(TALK[0]["content"], "The dog.").split("¦")
    prompt, response = given["prompts"][0], given["responses"][0, 0]
    prompt, response = prompt[prompt >= 0].tolist(), response[response >= 0].tolist()
    tokens = inner.encode(asked.removeprefix("<s>") + whole, add_special_tokens=name.startswith("Sentence")).ids
    assert prompt + response == tokens
    assert inner.decode(prompt, skip_special_tokens=False).replace("<s> ", "<s>") == asked
    one, other = given["scores"][0]
    assert one != other
    assert said.wins[0] == (one > other)
    assert (said.wins[2], said.position_bias[2]) == (0.5, 0)
    assert np.isnan(said.wins[1])
    assert np.isnan(said.position_bias[1])
    assert said.reasons == {1: "first response is longer than 512 tokens"}
    assert "m: 1 of 3 questions are not decided: 1 × first response is longer than 512" in capsys.readouterr().out


@pytest.mark.parametrize("template", [CHATML, CHATML.replace(f"{TURN}\n", TURN)], ids=["a newline behind", "none"])
@pytest.mark.parametrize("padding", ["an end token", "another token", "none"])
def test_the_reward_is_read_where_transformers_reads_it(run, tmp_path, padding, template):
    """At the last token that is not ``pad_token_id``: before the end where both are one, behind what follows it."""
    source = tmp_path / "judge"
    write_judge(source, write_tokenizer, template=template, eos_token=TURN)
    model = models.gold(run, str(source))
    number = {"an end token": model.tokenizer.end, "another token": 0, "none": None}[padding]
    config = json.loads((source / "config.json").read_text()) | {"pad_token_id": number}
    (source / "config.json").write_text(json.dumps(config))
    asked = judging.Asked(QUESTIONS[:1], NONSENSE, NONSENSE, NONSENSE, [TALK])
    (both,) = judging._read(models.gold(run, str(source)), str(source), asked).responses
    asked = model.tokenizer.encode(model.tokenizer.render(TALK, ask=True))
    for tokens, text in zip(both, (QUESTIONS[0].first, QUESTIONS[0].second), strict=True):
        whole = model.tokenizer.encode(
            model.tokenizer.render([*TALK, {"role": "assistant", "content": text}], ask=False)
        )
        while whole[-1] == number:
            whole.pop()
        assert asked + tokens[tokens >= 0].tolist() == whole


def test_padding_within_a_response_ends_nothing():
    responses = np.array([[[3, 0, 4, 0, 0, -1], [0, 0, -1, -1, -1, -1]]])
    cut = judging._without_last(responses, 0)
    assert cut.tolist() == [[[3, 0, 4, -1, -1, -1], [0, -1, -1, -1, -1, -1]]]
    assert judging._without_last(responses, None).tolist() == responses.tolist()


def test_the_prompts_of_the_questions_are_read_where_there_are_no_others(run, tmp_path, monkeypatch):
    judge, asked = judging._of_checkpoint(run, write_judge(tmp_path / "judge", write_tokenizer)), []
    monkeypatch.setattr(passes, "rewards", lambda *given: asked.append(given[3:]) or np.zeros((2, 2)))
    questions = [Question("bread?", "a", "b"), Question("dog?", "a", "b")]
    for given in ((), ["bread?", "dog?"]):
        judge("m", judging.Asked(questions, NONSENSE, NONSENSE, NONSENSE, given))
    assert all((one == other).all() for one, other in zip(*asked, strict=True))


def test_a_judge_that_can_read_no_question_decides_none(run, tmp_path):
    source = write_judge(tmp_path / "judge", write_tokenizer, positions=4)
    judge = judging._of_checkpoint(run, source)
    said = judge("m", judging.Asked(QUESTIONS, NONSENSE, NONSENSE, NONSENSE, [POST] * 3))
    assert np.isnan(said.wins).all()
    assert set(said.reasons) == {0, 1, 2}


def test_a_judge_that_knows_no_word_is_refused(run, tmp_path):
    write = lambda folder: write_kind(folder, "words, as T5")  # noqa: E731
    judge = judging._of_checkpoint(run, write_judge(tmp_path / "judge", write))
    asked = judging.Asked(QUESTIONS, NONSENSE, NONSENSE, NONSENSE, ["日本語で話す人" * 9] * 3)
    with pytest.raises(ValueError, match=r"^--gold_model .*judge: .*% of the tokens of prompts are unknown"):
        judge("m", asked)


def test_an_endpoint_is_asked_about_summaries_of_posts_and_about_conversations(run, monkeypatch):
    asked = []

    def stand_in(settings, folder):
        asked.append((settings.template, settings.prefix))
        return verdicts.by_score(lambda prompts, responses, references: [len(each) for each in responses])

    monkeypatch.setattr(endpoint, "endpoint", stand_in)
    run = run._replace(recipe=dataclasses.replace(run.recipe, endpoint=Endpoint(model="m")))
    ask = judging._endpoint(run)
    for given, template in (([POST] * 3, "tldr-1"), ([POST, POST, TALK], "tldr-1"), ([TALK, "Hi?", POST], "chat-1")):
        wins = ask("m", judging.Asked(QUESTIONS, NONSENSE, NONSENSE, NONSENSE, given)).wins
        assert wins.tolist() == [1, 1, 0.5]
        assert asked[-1][0].name == template
    assert [each.name for each, _ in asked] == ["tldr-1", "chat-1"], "one judge each, which remembers"
    assert {prefix for _, prefix in asked} == {"--endpoint."}
    assert tuple(each.name for each, _ in asked) == TEMPLATES, "they are in the keys of what they decide"


def test_another_template_is_another_judge(run, tmp_path):
    """What a judge said is kept under a key of all its files."""
    write_judge(tmp_path / "judge", write_tokenizer, template=CHATML)
    before = models.gold(run, str(tmp_path / "judge")).key
    (tmp_path / "judge" / "chat_template.jinja").write_text(CHATML + END)
    after = models.gold(run, str(tmp_path / "judge")).key
    (tmp_path / "judge" / "generation_config.json").write_text("{}")
    assert len({before, after, models.gold(run, str(tmp_path / "judge")).key}) == 3


def test_no_reward_model_is_refused(run, tmp_path):
    size = shape.llama(500, layers=1, width=16, heads=2, start=False)
    save.save(tmp_path / "m", architectures.config_of(size), transformer.init(size, 500, jax.random.key(0)))
    write_tokenizer(tmp_path / "m")
    with pytest.raises(ValueError, match=r"^--gold_model: .* is no reward model"):
        models.gold(run, str(tmp_path / "m"))
