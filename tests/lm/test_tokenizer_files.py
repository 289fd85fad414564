"""Tokenizers of others with damaged or hostile files: each is one sentence that names the file and what is wrong."""

import json
import os

import pytest

from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return {name: (folder / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")}


@pytest.fixture
def folder(good, tmp_path):
    for name, text in good.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def hole(path):
    with path.open("wb") as file:
        file.truncate(2**30)


def pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def directory(path):
    path.unlink(missing_ok=True)
    path.mkdir()


EVERY = {
    "a gigabyte": (hole, "is larger than"),
    "a pipe": (pipe, "should be a file, and is a pipe"),
    "a folder": (directory, "should be a file, and is a folder"),
    "another encoding": ("é".encode("utf-16"), "is no text in UTF-8"),
}


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"),
        *("added_tokens.json", "generation_config.json", "config.json"),
    ],
)
@pytest.mark.parametrize("what", EVERY)
def test_a_file_that_cannot_be_read_is_named(folder, name, what):
    content, words = EVERY[what]
    content(folder / name) if callable(content) else (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} {words}"):
        open_tokenizer(folder)


VOCABULARIES = {
    "nothing": "",
    "a list": "[]",
    "lists inside of lists": "[" * 100_000,
    "no model": '{"version": "1.0"}',
    "another version": '{"version": "9.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "no tokens": '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "a merge of what is no token": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
    "a negative token": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
    "a token beyond 32 bits": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967296}, "merges": []}}',
    "words without a token for unknown ones": (
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}'
    ),
    "a model that nobody has": '{"version": "1.0", "model": {"type": "Magic", "vocab": {"a": 0}}}',
}


@pytest.mark.parametrize("what", VOCABULARIES)
def test_a_vocabulary_that_is_none_is_named(folder, what):
    (folder / "tokenizer.json").write_text(VOCABULARIES[what])
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer of the tokenizers library: ") as found:
        open_tokenizer(folder)
    assert len(str(found.value).replace(str(folder), "")) < 300


SETTINGS = {
    "lists inside of lists": ("[" * 100_000, "is no JSON object .*nested too deeply"),
    "a list": ([], "is no JSON object, but a list"),
    "an end that is a number": ({"eos_token": 3}, "eos_token must be a text, or an object"),
    "an end that is a list": ({"eos_token": ["a"]}, "eos_token must be a text"),
    "an end that is true": ({"eos_token": True}, "eos_token must be a text"),
    "an end without its text": ({"eos_token": {"lstrip": True}}, "eos_token must be a text"),
    "an end whose text is a number": ({"eos_token": {"content": 3}}, "eos_token must be a text"),
    "an end that is no token": ({"eos_token": "<nobody>"}, "has no token '<nobody>'"),
    "no end": ({"eos_token": None}, "has no end token"),
    "a start that is a number": ({"bos_token": 3}, "bos_token must be a text"),
    "a start that is no token, in a template": (
        {"bos_token": "<nobody>", "chat_template": "{{ bos_token }}"},
        "has no token '<nobody>'",
    ),
    "added tokens in a list": ({"added_tokens_decoder": [3]}, "added_tokens_decoder must be an object of tokens"),
    "added tokens without content": ({"added_tokens_decoder": {"3": {"special": True}}}, "must be an object of tok"),
    "an added token without a number": ({"added_tokens_decoder": {"x": {"content": "a"}}}, "need numbers, got 'x'"),
    "an added token with another number": (
        {"added_tokens_decoder": {"999": {"content": "<new>"}}},
        r"list '<new>' as token 999, where tokenizer\.json lacks it and would number it 390",
    ),
    "a template that is a number": ({"chat_template": 3}, "chat_template must be a text, or a list"),
    "a template that is true": ({"chat_template": True}, "chat_template must be a text, or a list"),
    "a template that is an object": ({"chat_template": {"default": 3}}, "chat_template must be a text, or a list"),
    "templates that are texts": ({"chat_template": ["a"]}, "chat_template must be a text, or a list"),
    "templates without text": ({"chat_template": [{"name": "default"}]}, "chat_template must be a text, or a list"),
    "templates that are numbers": (
        {"chat_template": [{"name": "default", "template": 3}]},
        "chat_template must be a te",
    ),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_of_another_type_are_named(folder, good, what):
    settings, words = SETTINGS[what]
    if isinstance(settings, dict):
        settings = json.loads(good["tokenizer_config.json"]) | settings
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=words) as found:
        open_tokenizer(folder)
    assert str(folder) in str(found.value)
    assert len(str(found.value).replace(str(folder), "")) < 250


def test_settings_that_only_look_like_tokens_are_no_matter(folder, good):
    """As Llama's files have them: an object without text, and switches that end like tokens."""
    more = {
        "added_tokens_decoder": {"0": {"content": "a"}},
        "add_bos_token": True,
        "add_eos_token": False,
        "pad_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(json.loads(good["tokenizer_config.json"]) | more))
    assert open_tokenizer(folder).named == {"eos_token": "<|endoftext|>"}
