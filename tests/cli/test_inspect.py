"""``inspect``: what it says of checkpoints and data is what they are, and what it refuses is one sentence."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.cli import facts_of_checkpoints, facts_of_data, inspect, main
from gvgap_jax.lm.data import encode, format_choice, read
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from gvgap_jax.lm.hf import load
from gvgap_jax.runtime import hub
from tests.tldr import chat_checkpoints

GOLDEN = sorted(path.parent for path in (Path(__file__).parents[1] / "lm" / "golden_checkpoints").glob("*/config.json"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a checkpoint of each kind, and files of messages."""
    folder = tmp_path_factory.mktemp("inspected")
    for kind in chat_checkpoints.KINDS:
        chat_checkpoints.write_checkpoint(folder / kind, kind)
    chat_checkpoints.write_messages(folder, 40)
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def fetch(name, *_):
        raise ValueError(f"{name} could not be fetched.")

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(inspect.console, "_width", 80)


def printed(capsys, *command, status=0):
    arguments = ["inspect", *map(str, command)]
    if status:
        with pytest.raises(SystemExit) as stopped:
            main.main(arguments)
        assert stopped.value.code == status
    else:
        main.main(arguments)
    return capsys.readouterr().out


def told(folder):
    return facts_of_checkpoints.facts(facts_of_checkpoints.opened(str(folder)))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_a_checkpoint_of_every_family_is_what_its_files_are(folder, capsys):
    found, config = told(folder), json.loads((folder / "config.json").read_text())
    names = {"layers": ("num_hidden_layers", "n_layer"), "heads": ("num_attention_heads", "n_head")}
    assert found["family"].startswith(f"{config['model_type']} ({config['architectures'][0]}")
    for fact, spellings in names.items():
        assert found[fact].split()[0] == str(next(config[name] for name in spellings if name in config))
    if folder.name.endswith("bfloat16"):
        assert "of bfloat16 in 1 file" in found["weights"]
    else:
        stored = load_file(folder / "model.safetensors")
        bytes_stored = sum(each.nbytes for each in stored.values())
        assert found["weights"] == f"{bytes_stored:,} bytes of float32 in 1 file"
        assert found["parameters"].split()[0] == f"{bytes_stored // 4:,}"
    assert max(map(len, printed(capsys, folder).splitlines())) <= 80


def test_what_is_particular_to_a_family_is_said(world):
    gemma, qwen = told(world / "gemma3"), told(world / "qwen3")
    assert gemma["attention"] == "full in layer 5; to 16 tokens in the other 5 layers"
    assert gemma["positions"].endswith("base 1,000,000 (10,000 in layers with a window)")
    assert (
        gemma["norms"] == "RMSNorm of 1 + scale before and after attention and feed-forward, and of each query and key"
    )
    assert gemma["start of a text"] == "<bos> (2)"
    assert gemma["ends of responses"] == "<eos> (1), <end_of_turn> (5)"
    assert qwen["heads"] == "4 of width 16, 2 for keys and values"
    assert qwen["vocabulary"] == "344 rows; the head is tied"
    assert qwen["heads stored"] == "language model, tied to the embedding"
    assert qwen["context"] == "512 tokens"
    assert qwen["start of a text"] == "no token"
    assert qwen["two turns"] == (
        "<|im_start|>user\\nWhat is a rose?<|im_end|>\\n<|im_start|>assistant\\nA flower.<|im_end|>\\n"
        "<|im_start|>user\\nAnd a rhino?<|im_end|>\\n<|im_start|>assistant\\n"
    )
    assert told(next(each for each in GOLDEN if each.name == "gpt2"))["positions"].startswith("learned, ")


def test_no_weights_are_read(world, monkeypatch, capsys):
    monkeypatch.setattr(load, "_fetching", None)
    monkeypatch.setattr(load, "load", None)
    assert "parameters" in printed(capsys, world / "qwen3", world / "comparisons.jsonl")


def test_a_reward_model_and_a_body_without_tokenizer_are_told_apart(world, tmp_path):
    shutil.copytree(world / "gemma3", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    found = told(tmp_path / "model")
    assert "has no tokenizer.json" in found["tokenizer"]
    assert "two turns" not in found
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"score.weight": np.ones((1, 32), np.float32)}, weights)
    judge = "language model, tied to the embedding; reward model (score.weight), which can judge"
    assert told(tmp_path / "model")["heads stored"] == judge


HEADS = {  # labels of score.weight -> what is said of heads and of parameters, of which the body has 70,368
    None: ("none: a body, from which a reward model can be trained, and no policy", "70,368 without a head"),
    1: ("reward model (score.weight), which can judge", "70,400 with the reward head"),
    2: ("score.weight of 2 labels, which no reward model has: it cannot judge", "70,432 with the reward head"),
}


@pytest.mark.parametrize("labels", HEADS)
def test_parameters_are_counted_with_the_head_that_is_there(world, tmp_path, labels):
    shutil.copytree(world / "gemma3", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "model" / "model.safetensors"
    head = {"score.weight": np.ones((labels, 32), np.float32)} if labels else {}
    save_file(load_file(weights) | head, weights)
    found = told(tmp_path / "model")
    assert (found["heads stored"], found["parameters"]) == HEADS[labels]


def test_a_tokenizer_with_more_tokens_than_rows_is_said(world, tmp_path):
    shutil.copytree(world / "qwen3", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    first = vocabulary["added_tokens"][0]
    vocabulary["added_tokens"] += [first | {"id": 340 + each, "content": f"<|more {each}|>"} for each in range(5)]
    path.write_text(json.dumps(vocabulary))
    assert told(tmp_path / "model")["tokenizer"] == (
        "344 tokens (BPE); unknown token: none; 1 more, added ones, for which the model has no row"
    ), "as the recipe takes it"
    vocabulary["model"]["vocab"] |= {f"word {each}": 345 + each for each in range(5)}
    path.write_text(json.dumps(vocabulary))
    assert "tokens and the model only 344 rows" in told(tmp_path / "model")["tokenizer"]


def test_a_template_that_fails_is_said(world, tmp_path):
    shutil.copytree(world / "gemma3", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    assert "no system" in told(tmp_path / "model")["two turns"]


def test_data_are_told_as_they_are(world, capsys, tmp_path):
    rows = [
        {"prompt": "one", "chosen": "a b", "rejected": "a"},  # by length alone
        {"prompt": "one", "chosen": "a b", "rejected": "a"},  # again
        {"prompt": "one", "chosen": "a", "rejected": "a b"},  # the contrary
        {"prompt": "two", "chosen": "x\x1b[31m", "rejected": "y z w"},
        {"prompt": "two", "chosen": "x", "rejected": "x"},  # dropped
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = facts_of_data.facts(read.read_comparisons(path))
    assert found["comparisons"].startswith("form pair: 4 of 5 rows are used; 1 are not: 1 × chosen equals rejected")
    assert found["duplicates"] == "1 rows repeat earlier ones; 2 have a prompt of an earlier one"
    assert found["contradictions"] == "1 pairs are labelled both ways"
    assert found["longer is chosen"] == "50.0%"
    assert found["differ by length alone"] == "75.0%"
    assert found["words"].startswith("prompt 1 / 1 / 1 / 1; chosen 1 / 2 / 2 / 2; rejected 1 / ")
    path.write_text(json.dumps(rows[3]) + "\n")
    shown = printed(capsys, path)
    assert "x\\x1b[31m" in shown, "nothing paints the terminal"
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize(("kind", "file"), [("qwen3", "comparisons.jsonl"), ("gemma3", "demonstrations.jsonl")])
def test_data_are_read_as_the_recipe_reads_them(world, capsys, kind, file):
    shown = " ".join(
        printed(capsys, world / file, world / kind, "--response_tokens", 12, "--prompt_tokens", 30).split()
    )
    assert "through the checkpoint's chat template as messages" in shown
    corpus = facts_of_data.summary.read_either(world / file)
    tokenizer = open_tokenizer(world / kind)
    name = "chosen" if kind == "qwen3" else "response"
    chosen = format_choice.choice([[row.prompt for row in corpus.rows]], tokenizer)
    counts = []
    for row in chosen.rows(corpus.rows):
        answer = {"role": "assistant", "content": getattr(row, name)}
        text = [tokenizer.render(row.prompt, ask=True), tokenizer.render([*row.prompt, answer], ask=False)]
        prompt, whole = tokenizer.encode_batch(text, start=False)
        counts.append(
            (len(prompt), len(whole[: 1 + max(np.flatnonzero(np.isin(whole, tokenizer.ends)))]) - len(prompt))
        )
    prompts, answers = np.array(counts).T
    for what, found, most in (("prompt", prompts, 30), (name, answers, 12)):
        option = "--prompt_tokens" if what == "prompt" else "--response_tokens"
        part = f"{min(found)} / {np.quantile(found, 0.5, method='higher')} / "
        assert f"{what} tokens {part}" in shown
        assert f"/ {max(found)}; {np.mean(found <= most):.1%} fit {option} {most}" in shown
    start = {"qwen3": "<|im_start|>user\\nQuestion 3", "gemma3": "<bos><start_of_turn>user\\nQuestion 0"}[kind]
    assert start in shown.split("first as it is read")[1]


def test_lengths_are_those_of_whole_texts(world):
    corpus, tokenizer = read.read_comparisons(world / "comparisons.jsonl"), open_tokenizer(world / "qwen3")
    chosen = format_choice.choice([[row.prompt for row in corpus.rows]], tokenizer)
    rows = chosen.rows(corpus.rows)
    encoded = encode.preferences(rows, tokenizer, chosen.format)
    lengths = encode.lengths(rows, tokenizer, chosen.format)
    for name, data in (
        ("prompt", encoded.data.prompts),
        *((name, getattr(encoded.data, name)) for name in ("chosen", "rejected")),
    ):
        np.testing.assert_array_equal(lengths[name], (np.asarray(data) >= 0).sum(axis=1))


def test_what_does_not_fit_at_all_is_one_row(world, capsys):
    shown = printed(capsys, world / "qwen3", world / "comparisons.jsonl", "--response_tokens", 1)
    assert "refused" in shown
    assert "chosen tokens" in shown
    assert "0.0% fit --response_tokens 1" in shown
    assert "no row fits the format" in " ".join(shown.split())


REFUSED = {
    "nothing": ((), "name a checkpoint, data, or both"),
    "no file": (("no.jsonl",), "there is no file no.jsonl"),
    "no folder": (("/no/where",), "no file or folder /no/where"),
    "no room": (("x.jsonl", "--prompt_tokens", "0"), "--prompt_tokens and --response_tokens must be at least 1"),
    "no form": (("x.jsonl", "--form", "pairs"), r"--form: there is no form 'pairs'.*Did you mean 'pair'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_sentence(what, capsys):
    arguments, words = REFUSED[what]
    assert re.search(f"^error: .*{words}", printed(capsys, *arguments, status=2))


def test_an_adapter_and_an_unknown_family_are_refused(world, tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert "holds an adapter (PEFT" in printed(capsys, tmp_path / "adapter", status=2)
    shutil.copytree(world / "qwen3", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text()) | {"model_type": "mamba"}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    shown = printed(capsys, tmp_path / "other", status=2)
    assert re.search(r"model_type 'mamba' is not here; there are .*qwen3", shown)


def test_a_name_is_looked_for_on_the_hub_as_a_checkpoint_first(world, capsys, monkeypatch):
    asked = []

    def fetch(name, files, revision=None):
        asked.append((name, "model.safetensors" in files, revision))
        return world / "qwen3"

    monkeypatch.setattr(hub, "fetch", fetch)
    assert "checkpoint some/model" in printed(capsys, "some/model", "--revision", "abc")
    assert asked == [("some/model", False, "abc")] * 2, "no weights are fetched"


def test_weights_that_are_on_the_hub_alone_are_not_looked_for(world, tmp_path, monkeypatch):
    shutil.copytree(world / "qwen3", tmp_path / "small")
    (tmp_path / "small" / "model.safetensors").unlink()
    monkeypatch.setattr(hub, "fetch", lambda *_: tmp_path / "small")
    found = facts_of_checkpoints.facts(facts_of_checkpoints.opened("some/model"))
    assert found["weights"] == "on the hub; nothing of them was fetched"
    assert found["parameters"].split()[0] == told(world / "qwen3")["parameters"].split()[0]


def test_a_name_that_is_nothing_is_said_to_be(capsys, monkeypatch):
    def no_data(*_):
        raise ValueError("datasets cannot read it")

    monkeypatch.setattr(inspect.summary, "read_either", no_data)
    shown = printed(capsys, "some/name", status=2)
    words = "there is no file or folder some/name here, and neither a checkpoint nor data of that name could be fetched"
    assert shown.startswith(f"error: {words} from the hub: datasets cannot")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_one_file_of_a_checkpoint_is_not_taken_for_data(world, capsys, name):
    shown = printed(capsys, world / "qwen3" / name, status=2)
    assert f"{name} is one file of a checkpoint: name the folder" in shown


def test_a_folder_of_neither_is_said_to_be(tmp_path, capsys):
    (tmp_path / "model-Q4.gguf").write_bytes(b"GGUF")
    shown = printed(capsys, tmp_path, status=2)
    assert "holds no checkpoint (there is no config.json), and no data: " in shown


def test_the_hub_says_once_that_it_cannot_be_reached():
    """It would say so for each of many requests."""
    said, top = [], logging.getLogger("huggingface_hub")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.msg)
    top.addHandler(handler)
    logger, before = logging.getLogger("huggingface_hub.utils._http"), top.level
    with hub.quiet():
        logger.warning("again")
    logger.warning("as before")
    top.removeHandler(handler)
    assert (said, top.level) == (["as before"], before)
