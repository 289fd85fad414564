"""The package transformers reads the same tokens, special tokens and conversations from the same files."""

import datetime
import json

import pytest

from gvgap_jax.lm.data.formats import CHAT
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.chat_templates import ANSWER, FAMILIES, SYSTEM, TALK
from tests.lm.test_conversations import CALL, write_family
from tests.lm.test_special_tokens import TABLES, token, written
from tests.lm.tiny_tokenizer import KINDS, write_kind

pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
utilities = pytest.importorskip("transformers.utils.chat_template_utils")

TEXTS = ["The dog ate bread.", "two</s>texts", "<s>begun", "  blanks \n\n\n and é ☃", "", "TL;DR:"]
ABSENT = dict.fromkeys(("special_tokens_map", "added_tokens", "generation_config", "config"))


class ThatDay(datetime.datetime):
    """The day that our templates write."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


def once(peer, tokens):
    """Without the second start token that transformers puts before a text that has one, and without an end token."""
    start = [peer.bos_token_id]
    return tokens[1:] if tokens[:2] == start * 2 else tokens


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_begins_a_text_alike(tmp_path, kind):
    folder = write_kind(tmp_path, kind)
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        end = [peer.eos_token_id] if "T5" in kind else []
        assert ours.encode(text) + end == once(peer, peer(text).input_ids)
        assert ours.encode_batch([text], start=False)[0] == peer(text, add_special_tokens=False).input_ids


CLASSES = {
    "LlamaTokenizer": "a blank before all, as Llama 2",
    "LlamaTokenizerFast": "a blank before the first word, as Mistral",
    "GemmaTokenizer": "no blank, as Gemma",
    "GPT2Tokenizer": "bytes, as GPT-2",
    "TokenizersBackend": "bytes, as Llama 3",
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("asked", [None, True, False], ids=["nothing said", "a start asked for", "no start asked for"])
@pytest.mark.parametrize("model", ["", "llama", "gpt2"], ids=["no model", "a Llama", "a GPT-2"])
def test_what_begins_a_text_is_what_the_class_of_the_tokenizer_writes(tmp_path, name, asked, model):
    settings = {"tokenizer_class": name} | ({} if asked is None else {"add_bos_token": asked})
    folder = write_kind(tmp_path, CLASSES[name], **settings)
    if model:
        (folder / "config.json").write_text(json.dumps({"model_type": model, "eos_token_id": 2}))
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    for text in ("The dog", "bread."):
        assert ours.encode(text) == peer(text).input_ids


@pytest.mark.parametrize("table", [name for name in TABLES if "number for" not in name and "number of" not in name])
def test_every_table_names_the_same_tokens(tmp_path, table):
    folder = written(tmp_path, **(ABSENT | TABLES[table]))
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    if "numbers for" not in table:
        assert (ours.end, ours.named["eos_token"]) == (peer.eos_token_id, peer.eos_token)
    text = "dog<|im_start|>bread<|im_end|> a<|endoftext|>"
    assert ours.encode(text) == peer(text).input_ids
    assert ours.decode_prompts([ours.encode(text)]) == [peer.decode(peer(text).input_ids, skip_special_tokens=True)]
    known = {name: text for name, text in peer.special_tokens_map.items() if isinstance(text, str)}
    known.pop("pad_token")  # it stands in tokenizer.json too, and no template writes it
    assert {name: text for name, text in ours.named.items() if name in known} == known


LISTED = {
    "special": {"added_tokens_decoder": {"390": token("<tool>", special=True)}},
    "not special": {"added_tokens_decoder": {"390": token("<tool>", special=False)}},
    "with the blanks behind it": {"added_tokens_decoder": {"390": token("<tool>", rstrip=True, special=True)}},
    "with the blanks before it": {"added_tokens_decoder": {"2": token("<|im_end|>", lstrip=True, special=True)}},
    "an older list": {"added_tokens": {"<tool>": 390}},
    "a word of the vocabulary": {"additional_special_tokens": ["do"]},
    "a word as the end": {"eos_token": "do"},
    "split": {"split_special_tokens": True},
}


@pytest.mark.parametrize("what", LISTED)
def test_listed_tokens_are_found_in_texts_alike(tmp_path, what):
    folder = written(tmp_path, **(ABSENT | LISTED[what]))
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    for text in ("the <tool> dog", "a <|im_end|> b", "adob", "two\n<tool>\n"):
        tokens = ours.encode(text)
        assert tokens == peer(text).input_ids
        assert ours.inner.decode(tokens) == peer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_asks_answers_and_goes_on_alike(tmp_path, name, monkeypatch):
    monkeypatch.setattr(utilities, "datetime", ThatDay)
    family, folder = FAMILIES[name], write_family(tmp_path, FAMILIES[name])
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    for talk in (TALK, TALK[:1], *([] if family.with_system is None else [[SYSTEM, *TALK]])):
        asked = peer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        assert CHAT.prompt(talk, ours) + family.opening == asked
        answered = [*talk, {"role": "assistant", "content": ANSWER}]
        whole = peer.apply_chat_template(answered, tokenize=False)
        assert CHAT.prompt(talk, ours) + CHAT.response(talk, ANSWER, ours) == whole
        assert ours.encode_batch([whole], start=False)[0] == peer.apply_chat_template(answered, return_dict=False)
        for begun in ("It is", "It is "):
            talking = [*talk, {"role": "assistant", "content": begun}]
            text = peer.apply_chat_template(talking, continue_final_message=True, tokenize=False)
            assert CHAT.prompt(talking, ours) == text


def test_calls_of_tools_are_written_alike(tmp_path):
    folder = write_family(tmp_path, FAMILIES["Qwen 3"])
    ours, peer = open_tokenizer(folder), hf.AutoTokenizer.from_pretrained(str(folder))
    talk = [*TALK, CALL | {"reasoning": "I should add."}, {"role": "tool", "content": "4"}]
    assert CHAT.prompt(talk, ours) == peer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
