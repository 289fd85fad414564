"""Files of checkpoints and of data change: what is made of them is computed again, and nothing else."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.tldr import corpus
from experiments.tldr.run import Run
from experiments.tldr.settings import PRESETS, TABLES, Data, Endpoint
from gvgap_jax.lm.data import splits
from gvgap_jax.lm.data.rows import Demonstration
from gvgap_jax.lm.hf import architectures, save
from gvgap_jax.lm.model import transformer
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.training import layouts
from tests.tldr import chat_checkpoints

ONLINE = ("online_from_sft", "online_from_dpo")
COMPARED = ("reward_model", "dpo", *ONLINE, *TABLES)  # all that is made of the training pairs
JUDGED = ("answers", "verdicts")
ALL = ("sft", *COMPARED)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with a policy, a reward model of another family, and files of messages."""
    folder = tmp_path_factory.mktemp("given")
    chat_checkpoints.write_checkpoint(folder / "policy", "qwen3")
    chat_checkpoints.write_checkpoint(folder / "gold", "gemma3")
    config = json.loads((folder / "gold" / "config.json").read_text())
    shape = architectures.shape_of(config)
    shutil.move(folder / "gold", folder / "old")
    save.save(folder / "gold", config, transformer.init(shape, 1, jax.random.key(1)))
    for path in (folder / "old").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            shutil.copy(path, folder / "gold")
    chat_checkpoints.write_messages(folder, 60)
    return folder


@pytest.fixture
def world(given, tmp_path):
    return shutil.copytree(given, tmp_path / "world")


def made(world, comparisons="comparisons.jsonl", demonstrations="demonstrations.jsonl", form=(), **options):
    """What the stages of a run are made of, with a reward model from elsewhere as judge."""
    data = Data((str(world / comparisons),), (str(world / demonstrations),), held_out=0.3, prompt_tokens=64, form=form)
    recipe = dataclasses.replace(
        PRESETS["laptop"], model=str(world / "policy"), gold_model=str(world / "gold"), data=data, **options
    )
    return corpus.prepare(Run(recipe, folder_at(world / "seed-0"), layouts.layout(-1), lambda: False))[0].made


def text(change):
    return lambda path: path.write_text(change(path.read_text()))


def with_other_weights(path):
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + np.float32(1e-3)}, path)


def with_other_ends(path):
    path.write_text(json.dumps({"eos_token_id": json.loads(path.read_text())["eos_token_id"][:1]}))


def with_other_settings(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "Q"}))


FILES = {  # of the policy and of the judge
    "model.safetensors": with_other_weights,
    "config.json": text(lambda found: found.replace("512", "513")),
    "tokenizer.json": text(lambda found: found + "\n"),
    "tokenizer_config.json": with_other_settings,
    "generation_config.json": with_other_ends,
    "chat_template.jinja": lambda path: path.write_text(chat_checkpoints.QWEN3.replace("\\n", " ")),
    "special_tokens_map.json": lambda path: path.write_text(json.dumps({"pad_token": "Q"})),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("whose", "wanted"), [("policy", ALL), ("gold", ("verdicts",))], ids=["policy", "judge"])
def test_every_file_of_a_checkpoint_decides_what_it_makes(world, name, whose, wanted):
    before = made(world)
    FILES[name](world / whose / name)
    after = made(world)
    assert {stage for stage in after if after[stage].key != before[stage].key} == set(wanted)
    changed = "the model changed" if whose == "policy" else "the gold model changed"
    assert changed in after[wanted[0]].since(before[wanted[0]])


def test_weights_in_files_of_other_names_decide_what_they_make(world):
    """An index may name its files as it likes."""
    (world / "policy" / "model.safetensors").rename(world / "policy" / "weights.safetensors")
    names = load_file(world / "policy" / "weights.safetensors")
    index = {"weight_map": dict.fromkeys(names, "weights.safetensors")}
    (world / "policy" / "model.safetensors.index.json").write_text(json.dumps(index))
    before = made(world)
    with_other_weights(world / "policy" / "weights.safetensors")
    after = made(world)
    assert {stage for stage in after if after[stage].key != before[stage].key} == set(ALL)


def test_a_judge_that_labels_decides_the_pairs(world):
    options = {"narrow": True, "labeller": "reward_model"}
    before = made(world, **options)
    FILES["chat_template.jinja"](world / "gold" / "chat_template.jinja")
    after = made(world, **options)
    assert {stage for stage in after if after[stage].key != before[stage].key} == set(COMPARED)


def rewritten(world, kind, change):
    path = world / f"{kind}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def is_held_out(prompt):
    return bool(splits.split([Demonstration(prompt, "")], 0.3)[1])


def test_text_that_only_judges_see_decides_what_they_say(world):
    """The policy reads no more of a long post than fits; a judge from elsewhere reads all of it."""
    post = {"subreddit": "a", "title": "b", "post": "the first line\n" + "a long line of words " * 40}
    rows = [post | {"title": f"number {row}", "summary": f"it is {row}"} for row in range(40)]
    (world / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [
        {"info": {name: row[name] for name in post}, "summaries": [{"text": "it is"}, {"text": "no"}], "choice": 0}
        for row in rows
    ]
    (world / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))

    def change(row):
        post = {name: row.get("info", row)[name] for name in ("subreddit", "title", "post")}
        longer = next(
            each
            for each in (post | {"post": post["post"] + "." * more} for more in range(1, 99))
            if is_held_out(each) == is_held_out(post)
        )
        return row | {"info": longer} if "info" in row else row | longer

    cases = [({}, "posts", JUDGED), ({"narrow": True, "labeller": "reward_model"}, "pairs", COMPARED)]
    for options, kind, wanted in cases:
        files = {"comparisons": "pairs.jsonl", "demonstrations": "posts.jsonl"}
        before = made(world, **files, **options)
        rewritten(world, kind, change)
        after = made(world, **files, **options)
        changed = {stage for stage in after if after[stage].key != before[stage].key}
        assert changed == set(wanted), "what the policy reads is the same"


def as_csv(world):
    rows = [json.loads(line) for line in (world / "comparisons.jsonl").read_text().splitlines()]
    with (world / "comparisons.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["chosen", "rejected"])
        writer.writeheader()
        writer.writerows({name: json.dumps(value) for name, value in row.items()} for row in rows)


def as_pairs(world):
    rows = [json.loads(line) for line in (world / "comparisons.jsonl").read_text().splitlines()]
    pairs = [
        {"prompt": row["chosen"][:-1], "chosen": row["chosen"][-1:], "rejected": row["rejected"][-1:]} for row in rows
    ]
    (world / "pairs.json").write_text(json.dumps(pairs))


def test_the_same_rows_in_another_form_or_file_are_the_same(world):
    before = made(world)
    as_csv(world)
    as_pairs(world)
    rewritten(world, "demonstrations", lambda row: row | {"worker": 3})
    for changed in (
        {"form": ("conversations",)},
        {"comparisons": "comparisons.csv"},
        {"comparisons": "pairs.json", "form": ("pair",)},
    ):
        after = made(world, **changed)
        assert {stage: each.key for stage, each in after.items()} == {stage: each.key for stage, each in before.items()}


ENDPOINTS = {
    "model": {"model": "other"},
    "base_url": {"base_url": "https://other/v1"},
    "temperature": {"temperature": 1.0},
    "answer_tokens": {"answer_tokens": 999},
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_what_decides_the_answers_of_an_endpoint_decides_what_it_says(world, name):
    before, after = (made(world, endpoint=Endpoint(**({"model": "m"} | more))) for more in ({}, ENDPOINTS[name]))
    assert {stage for stage in after if after[stage].key != before[stage].key} == {"verdicts"}
    assert f"--endpoint.{name} was " in after["verdicts"].since(before["verdicts"])


def test_a_folder_of_an_older_version_is_computed_again_and_told_why(world, monkeypatch):
    now = made(world)
    monkeypatch.setattr("experiments.tldr.keys.MEANING", 3)
    before = made(world)
    assert not {each.key for each in now.values()} & {each.key for each in before.values()}
    assert now["sft"].since(before["sft"]) == "the version of the recipe was 3 and is 4"
