"""The recipe by its command, from a Qwen 3-like and a Gemma 3-like checkpoint and a file of messages."""

import json
import shlex

import jax
import numpy as np
import pytest

from experiments.cli.main import main
from experiments.tldr.settings import ARMS, TABLES
from gvgap_jax.lm.hf import load
from gvgap_jax.runtime.files import read
from tests.tldr import chat_checkpoints

OPTIONS = shlex.split(
    "--sft.batch 8 --rm.batch 8 --dpo.batch 8 --sft.learning_rate 0.01 --rm.learning_rate 0.01 --dpo.learning_rate .01 "
    "--sft.epochs 2 --rm.epochs 1 --dpo.epochs 1 --samples 2 --online_prompts 8 --evaluation_prompts 8 --chunk 8 "
    "--steps_a_dispatch 1 --dispatches 50 --data.held_out 0.3 --data.prompt_tokens 64 --data.response_tokens 24 "
    "--data.compared_tokens 24"
)
MODELS = ("sft", "reward_model", "judge", "dpo", "online_from_sft", "online_from_dpo")
WRITTEN = {  # the first row as the model sees it
    "qwen3": r"<|im_start|>user\nQuestion {}: what is a {} beside a cat?<|im_end|>\n<|im_start|>assistant\n⟂",
    "gemma3": r"<bos><start_of_turn>user\nQuestion {}: what is a {} beside a cat?<end_of_turn>\n"
    r"<start_of_turn>model\n⟂",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=chat_checkpoints.KINDS)
def ran(request, tmp_path_factory):
    """The kind of checkpoint, and the folder with it, its data and a finished run."""
    folder = tmp_path_factory.mktemp(request.param)
    jax.config.update("jax_disable_most_optimizations", True)  # they take half of the time
    chat_checkpoints.write_checkpoint(folder / "model", request.param)
    chat_checkpoints.write_messages(folder, 60)
    run(folder)
    yield request.param, folder
    jax.config.update("jax_disable_most_optimizations", False)


def run(folder, *more):
    data = [
        "--data.comparisons",
        folder / "comparisons.jsonl",
        "--data.demonstrations",
        folder / "demonstrations.jsonl",
    ]
    main([*map(str, ["run", "tldr", "--model", folder / "model", "--out", folder / "out", *data, *OPTIONS, *more])])


def stage(folder, name):
    (found,) = (folder / "out" / "seed-0").glob(f"{name}-*/model")
    return found


def test_every_stage_leaves_a_checkpoint_of_its_family_with_its_tokenizer(ran):
    kind, folder = ran
    for name in MODELS:
        model, base = stage(folder, name), folder / "model"
        config, given = (json.loads((each / "config.json").read_text()) for each in (model, base))
        assert config["model_type"] == given["model_type"]
        found, checkpoint = load.open_checkpoint(model), load.open_checkpoint(base)
        assert found.shape == checkpoint.shape
        assert load.has_scalar_head(found) == (name in ("reward_model", "judge"))
        beside = {path.name for path in base.iterdir()} - {"config.json", "model.safetensors"}
        assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= beside
        assert all((model / path).read_bytes() == (base / path).read_bytes() for path in beside), kind
        moved = [np.abs(one - other).max() for one, other in weights(found, checkpoint)]
        assert min(moved) > 0, "all of it was trained"


def weights(*checkpoints):
    one, other = (load._fetching(each) for each in checkpoints)
    with one as first, other as second:
        for name, tensor in checkpoints[1].tensors.items():
            if name in checkpoints[0].tensors:
                yield tuple(fetch(name, tuple(slice(0, size) for size in tensor.size)) for fetch in (first, second))


def test_every_arm_answers_conversations_and_is_judged(ran):
    _, folder = ran
    tables = {name: read(folder / "out" / "seed-0" / "evaluate" / f"{name}.parquet") for name in TABLES}
    assert set(tables["answers"]["arm"]) == set(ARMS)
    asked = [row["messages"] for row in map(json.loads, (folder / "demonstrations.jsonl").read_text().splitlines())]
    known = {messages[-1]["content"] for messages in asked}
    assert set(tables["answers"]["human"]) <= known
    prompts = set(tables["answers"]["prompt"])
    single = {messages[0]["content"] for messages in asked if len(messages) == 2}
    assert prompts & single
    assert any(prompt.startswith("\n\nHuman: ") for prompt in prompts - single), "several turns are a transcript"
    assert not any("<" in answer for answer in tables["answers"]["human"])
    assert tables["verdicts"]["win"].is_between(0, 1).all()
    assert tables["pairs"]["margin"].is_finite().all()
    assert tables["answers"].filter(arm="sft")["log_ratio"].abs().max() == 0


def test_sft_has_learned_to_answer(ran):
    """Random weights say nothing; after two passes over 42 rows the answers are words of the data, and they end."""
    _, folder = ran
    answers = read(folder / "out" / "seed-0" / "evaluate" / "answers.parquet").filter(arm="sft")
    assert answers["tokens"].min() < 24, "end tokens are learned"


def test_the_same_command_computes_nothing_again_and_shows_what_the_model_reads(ran, capsys):
    kind, folder = ran
    run(folder, "--stage", "dpo")
    said = " ".join(capsys.readouterr().out.split())
    assert "dpo: kept" in said
    first = next(row for row in range(60) if f"Question {row}:" in said.split("the first: ")[1])
    assert WRITTEN[kind].format(first, chat_checkpoints.THINGS[first % 8]) in said
