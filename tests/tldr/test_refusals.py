"""What the recipe refuses: one sentence before the first stage, with the option that would change it."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from experiments.tldr import corpus, judging, plan, stages, toy
from experiments.tldr.options import Options
from experiments.tldr.run import Run
from experiments.tldr.settings import PRESETS, STAGES, Endpoint, Recipe, value_of
from gvgap_jax.lm.hf import load
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.training import layouts
from tests.lm.golden_checkpoints.configs import CONFIGS
from tests.tldr.test_keys import other

LAPTOP = PRESETS["laptop"]
POST = {"subreddit": "advice", "title": "boss", "post": "my boss moved out"}
NAN, INF = math.nan, math.inf

OPTIONS = [
    *(("samples", value) for value in (1, 0, -1)),
    *(("evaluation_prompts", value) for value in (1, -7)),
    *((name, 0) for name in ("chunk", "online_prompts", "steps_a_dispatch", "dispatches")),
    *((f"data.{name}", 0) for name in ("limit", "prompt_tokens", "response_tokens", "compared_tokens")),
    *(("data.held_out", value) for value in (0.0, 1.0, NAN, -0.1)),
    *((f"{name}.batch", 0) for name in ("sft", "rm", "dpo")),
    *((f"{name}.accumulate", value) for name in ("sft", "rm", "dpo") for value in (0, 3)),
    *((f"{name}.epochs", value) for name in ("sft", "rm", "dpo") for value in (0.0, NAN, -1.0)),
    *((f"{name}.learning_rate", value) for name in ("sft", "rm", "dpo") for value in (0.0, INF)),
    *((name, value) for name in ("beta", "temperature") for value in (0.0, -1.0, NAN, INF)),
    *(("evaluation_temperature", value) for value in (-0.1, NAN, INF)),
]


@pytest.mark.parametrize(("name", "value"), OPTIONS)
def test_an_option_out_of_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^--{name} [^\n]*\.$"):
        other(LAPTOP, name, value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"narrow": True, "model": "somewhere"}, "choose --labeller rouge_l, reward_model"),
        ({"two_words": True, "data": dataclasses.replace(LAPTOP.data, comparisons=("mine.jsonl",))}, "--labeller"),
        ({"narrow": True, "labeller": "reward_model"}, "needs --gold_model"),
        ({"narrow": True, "labeller": "endpoint"}, "needs --endpoint.model"),
    ],
)
def test_a_variant_without_who_labels_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(LAPTOP, **given)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small model that knows the words of the toy world, one that knows others, and files of data."""
    folder = tmp_path_factory.mktemp("refusals")
    toy._write_data(folder / "toy", 0)
    toy.write_model(folder / "toy" / "model", layers=1, width=8)
    toy.write_model(folder / "other", layers=1, width=8, tokenizer=toy._trained(["another tongue"]))
    for kind in ("comparisons", "demonstrations"):
        lines = (folder / "toy" / f"{kind}.jsonl").read_text().splitlines()[:100]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines))
    return folder


def prepared(world, tmp_path, comparisons=None, demonstrations=None, **options):
    """The run before its first stage; rows that are given stand in files of their own."""
    data = {}
    for kind, rows in (("comparisons", comparisons), ("demonstrations", demonstrations)):
        path = world / f"{kind}.jsonl"
        if rows is not None:
            path = tmp_path / f"{kind}.jsonl"
            path.write_text("\n".join(json.dumps(row) if not isinstance(row, str) else row for row in rows))
        data[f"data.{kind}"] = (str(path),)
    recipe = dataclasses.replace(LAPTOP, evaluation_prompts=8, online_prompts=32)
    for name, value in ({"model": str(world / "toy" / "model"), "rm.batch": 8} | data | options).items():
        recipe = other(recipe, name, value)
    run = Run(recipe, folder_at(tmp_path / "run" / "seed-0"), layouts.layout(-1), lambda: False)
    run, text, unseen = corpus.prepare(run)
    stages.check_sizes(run, text, unseen, STAGES)
    return run, text


def pair(**changed):
    return {"info": POST, "summaries": [{"text": "i am sad"}, {"text": "i am happy"}], "choice": 0} | changed


MANY = range(40)
LONG = " ".join(["i am sad"] * 9)
POSTS = [POST | {"title": f"my {subject} {event}"} for subject in toy.SUBJECTS for event in toy.EVENTS]
REFUSED = {
    "no file": ({"data.comparisons": ("absent.jsonl",)}, "^--data.comparisons: there is no file absent.jsonl"),
    "no rows": ({"comparisons": []}, "^--data.comparisons: .* has no rows"),
    "no JSON": ({"demonstrations": ["{"] * 9}, "^--data.demonstrations: .* is no JSON"),
    "no keys": ({"demonstrations": [{"text": "a"}]}, "^--data.demonstrations: .* is of no form of demonstrations"),
    "long demonstrations": (
        {"demonstrations": [post | {"summary": LONG} for post in POSTS]},
        r"^demonstrations: no row fits .* longer than 24 tokens .* --data.response_tokens 24 and --data.prompt_",
    ),
    "long comparisons": (
        {"comparisons": [pair(info=post, summaries=[{"text": LONG}, {"text": "i"}]) for post in POSTS]},
        r"^comparisons: no row fits .* longer than 24 tokens .* --data.compared_tokens 24 and --data.prompt_tokens 48",
    ),
    "other fields": (
        {"demonstrations": [{"prompt": {"post": f"i {number}"}, "completion": "i"} for number in MANY]},
        r"^prompts have the fields post, for which there is no template: write each as one text, as messages, or as a",
    ),
    "no such form": ({"data.form": ("pairs",)}, "^--data.form: there is no form 'pairs'; .* Did you mean 'pair'"),
    "two forms": ({"data.form": ("pair", "orca")}, "^--data.form: pair and orca are forms of comparisons"),
    "another form": ({"data.form": ("messages",)}, r"^--data.demonstrations: .* 100 × has no messages "),
    "nothing held out": ({"data.held_out": 1e-9}, "^evaluation prompts: .* change --data.held_out or --data.limit"),
    "all held out": ({"data.held_out": 1 - 1e-9}, "^demonstrations: .* change --data.held_out or --data.limit"),
    "two rows": ({"data.limit": 2}, "--data.limit, or give more data"),
    "words that are not known": (
        {"demonstrations": [post | {"summary": "elephants dance"} for post in POSTS]},
        r"^demonstrations: \d+.\d% of the tokens of responses are unknown .* 'elephants'.* Choose another --model",
    ),
    "a batch of SFT": ({"sft.batch": 512}, r"^--stage sft, demonstrations: \d+ rows are fewer .* --sft.batch 512"),
    "a batch of the reward model": ({"rm.batch": 512}, r"^--stage rm, comparisons: \d+ rows .* --rm.batch 512"),
    "a batch of the judge": ({"rm.batch": 64}, r"^--stage rm, held-out comparisons: \d+ rows .* --rm.batch 64"),
    "a batch of DPO": ({"dpo.batch": 512}, r"^--stage dpo, comparisons: \d+ rows .* --dpo.batch 512"),
    "a batch of online DPO": ({"online_prompts": 8}, r"^--stage online, online prompts: 8 rows .* --dpo.batch 32"),
    "a cap without prices": (
        {"endpoint": Endpoint(model="m", cap=5.0)}, r"^--endpoint.cap needs a price: --endpoint.prompt_price"
    ),
    "a negative price": ({"endpoint": Endpoint(model="m", prompt_price=-1.0)}, r"^--endpoint.prompt_price must be"),
    "no model": ({"model": "/no/where"}, "/no/where"),
    "no gold model": ({"gold_model": "/no/where"}, "/no/where"),
    "a reward model of another tongue": ({"rm_size": "other"}, "^--rm_size .* has another tokenizer than --model"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_stage_could_use_is_refused_before_the_first(world, tmp_path, case, monkeypatch):
    monkeypatch.setattr("gvgap_jax.runtime.hub.fetch", _no_hub)
    given, words = REFUSED[case]
    given = {name: str(world / value) if value == "other" else value for name, value in given.items()}
    with pytest.raises(ValueError, match=words) as refused:
        prepared(world, tmp_path, **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists(), "a refused attempt leaves nothing"
    prepared(world, tmp_path)


def _no_hub(name, files, revision=None):
    raise ValueError(f"{name} is no local folder, and could not be fetched")


def test_a_few_unknown_words_are_warned_of(world, tmp_path):
    rows = [json.loads(line) for line in (world / "demonstrations.jsonl").read_text().splitlines()]
    rows = [row | {"summary": row["summary"] + " zebra" * (number % 4 == 0)} for number, row in enumerate(rows)]
    with pytest.warns(
        UserWarning, match=r"% of the tokens of responses are unknown to the tokenizer \(such as 'zebra'\)"
    ):
        prepared(world, tmp_path, demonstrations=rows)


def test_rows_that_are_left_out_name_the_options_too(world, tmp_path, capsys):
    lines = (world / "demonstrations.jsonl").read_text().splitlines()
    prepared(world, tmp_path, demonstrations=[*lines, *(post | {"summary": LONG} for post in POSTS)])
    assert "There is room for --data.response_tokens 24 and" in " ".join(capsys.readouterr().out.split())


OWN = [f"seventeen purple elephants dance {number}" for number in MANY]


def own(**changed):
    rows = {
        "comparisons": [
            pair(info=POST | {"title": text}, summaries=[{"text": text}, {"text": "naïve 漢字"}]) for text in OWN
        ],
        "demonstrations": [POST | {"title": text, "summary": text} for text in OWN],
        "sft.batch": 8, "rm.batch": 4, "dpo.batch": 8, "data.compared_tokens": 40, "data.held_out": 0.3,
    }  # fmt: skip
    return rows | {"model": "toy"} | changed


def test_the_toy_model_learns_to_read_data_of_ones_own(world, tmp_path, recwarn):
    run, text = prepared(world, tmp_path, **own())
    assert text.decoded(text.comparisons.data.rejected) == ["naïve 漢字"] * len(text.comparisons.rows)
    assert set(text.decoded(text.demonstrations.responses)) <= set(OWN)
    assert text.tokenizer.size > 256
    assert not recwarn.list
    (folder,) = (tmp_path / "run").glob("toy-*")
    assert text.model.checkpoint.folder == folder / "model"
    assert not run.recipe.in_toy_world


def test_gold_is_no_judge_of_data_of_ones_own(world, tmp_path, monkeypatch):
    run, _ = prepared(world, tmp_path, **own())
    monkeypatch.setattr(judging.models, "trained", lambda *_: None)
    assert set(judging.judges_of(run)) == {"held_out_reward_model"}


def test_other_texts_are_another_tokenizer_and_their_order_is_not(world, tmp_path):
    def made(**given):
        return prepared(world, tmp_path, **own(**given))[0].made["sft"].data["the model"]

    rows = [POST | {"title": text, "summary": text} for text in OWN]
    assert made() == made(demonstrations=[*rows, rows[0]])
    assert made() != made(demonstrations=[*rows, rows[0] | {"summary": "and walk"}])


def test_the_tokenizer_of_the_same_texts_is_the_same_in_every_process():
    code = (
        f"from experiments.tldr import toy; print(hash(toy._trained({OWN!r}).to_str()), toy._trained({OWN!r}).to_str())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**__import__("os").environ, "PYTHONHASHSEED": "0", "RAYON_NUM_THREADS": threads}).stdout
        for threads in ("1", "3")
    }  # fmt: skip
    assert len(said) == 1
    assert toy._trained(OWN[::-1] + 50 * OWN[:1]).to_str() in said.pop()


def test_the_world_is_a_toy_only_where_all_of_it_is():
    assert LAPTOP.in_toy_world
    assert not other(LAPTOP, "model", "mine").in_toy_world
    assert not other(LAPTOP, "data.comparisons", ("mine.jsonl",)).in_toy_world
    assert not Recipe(endpoint=Endpoint()).in_toy_world
    assert value_of(LAPTOP, "sft.batch") == LAPTOP.sft.batch


def test_rows_longer_than_the_model_reads_are_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / load.CONFIG).write_text(json.dumps(CONFIGS["gpt2"]))  # of 64 positions
    recipe = dataclasses.replace(LAPTOP, model=str(tmp_path))
    fitting = dataclasses.replace(recipe, data=dataclasses.replace(LAPTOP.data, prompt_tokens=40, compared_tokens=24))
    plan.show(Options(fitting))
    with pytest.raises(ValueError, match=r"^SFT: rows have 71 tokens, and the model reads up to 64: "):
        plan.show(Options(recipe))
