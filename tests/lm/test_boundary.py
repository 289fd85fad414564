"""Where a prompt ends and its response begins: the tokens are those that the model has when it generates."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gvgap_jax.lm.data import encode
from gvgap_jax.lm.data.formats import CHAT, Format
from gvgap_jax.lm.data.rows import Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.tiny_tokenizer import KINDS, write_kind

HOW = Format(prompt_tokens=3000, response_tokens=3000)
LONG = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 3
PIECES = [
    "bread",
    " bread",
    "\n",
    "\n\n",
    " ",
    "  ",
    "12",
    "345",
    ".",
    ":",
    "'s",
    "TL;DR:",
    "é",
    "☃",
    "(",
    "the dog",
    LONG,
]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    return {kind: open_tokenizer(write_kind(tmp_path_factory.mktemp("kind"), kind)) for kind in KINDS}


def tokens_of(row):
    return row[row >= 0].tolist()


def encoded(tokenizer, prompt, response):
    data = encode.demonstrations([Demonstration(prompt, response)], tokenizer, HOW).data
    return tokens_of(data.prompts[0]), tokens_of(data.responses[0])


def read(tokenizer, text):
    """The tokens of a whole text, by the library alone."""
    return tokenizer.inner.encode(text, add_special_tokens=False).ids


@every_kind
@given(prompt=TEXTS, response=TEXTS)
def test_a_response_is_what_follows_its_prompt_in_the_whole_text(kinds, kind, prompt, response):
    tokenizer = kinds[kind]
    asked, answer = encoded(tokenizer, prompt, response)
    assert asked == [*tokenizer.start, *read(tokenizer, prompt)] == tokenizer.encode(prompt)
    assert answer[-1] == tokenizer.end
    whole, alone = read(tokenizer, prompt + response), read(tokenizer, prompt)
    if whole[: len(alone)] == alone and tokenizer.unknown not in alone[-1:]:
        assert answer[:-1] == whole[len(alone) :]
    if "words" not in kind:  # they lose blanks
        assert tokenizer.inner.decode(asked + answer) == tokenizer.inner.decode(whole)
        assert tokenizer.decode_prompts([asked])[0] + tokenizer.decode(answer) == tokenizer.inner.decode(whole)


CASES = {
    "a word behind a colon": ("TL;DR:", " the dog"),
    "a word right behind a colon": ("TL;DR:", "the dog"),
    "a word behind a blank": ("TL;DR: ", "the dog"),
    "a line behind a line": ("the dog\n", "\nbread"),
    "a number behind a number": ("12", "345"),
    "an end of a word": ("the do", "g"),
}


@every_kind
@pytest.mark.parametrize("case", CASES)
def test_a_response_never_begins_with_a_blank_that_the_text_has_not(kinds, kind, case):
    tokenizer, (prompt, response) = kinds[kind], CASES[case]
    asked, answer = encoded(tokenizer, prompt, response)
    if "words" not in kind:
        assert tokenizer.decode_prompts([asked]) == [prompt]
        assert tokenizer.decode(answer) == response
        assert tokenizer.inner.decode(asked + answer) == prompt + response
    assert answer.count(tokenizer.end) == 1


@every_kind
def test_an_answer_in_a_conversation_is_what_follows_in_the_whole_text(tmp_path, kind):
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else "
        "' ' + m.content + ' ' + eos_token }}{% endfor %}"
    )
    tokenizer = open_tokenizer(write_kind(tmp_path, kind, chat_template=template))
    talk = [{"role": "user", "content": "bread?"}]
    data = encode.demonstrations([Demonstration(talk, "the dog")], tokenizer, CHAT).data
    whole = read(tokenizer, "<s>[INST] bread? [/INST] the dog </s>")
    assert tokens_of(data.prompts[0]) + tokens_of(data.responses[0]) == whole
    assert tokens_of(data.prompts[0])[0] == tokenizer.inner.token_to_id("<s>")
    assert tokens_of(data.responses[0])[-1] == tokenizer.end == tokenizer.turn.end


def test_a_special_token_takes_blanks_from_the_response_behind_it(tmp_path):
    """As Phi 3's tokens do."""
    token = {"content": "<|assistant|>", "rstrip": True, "special": True, "normalized": False}
    number = open_tokenizer(write_kind(tmp_path, "bytes, as GPT-2")).size
    tokenizer = open_tokenizer(write_kind(tmp_path, "bytes, as GPT-2", added_tokens_decoder={str(number): token}))
    assert encoded(tokenizer, "dog<|assistant|>\n", " \n bread") == (
        [*read(tokenizer, "dog"), number],
        [*read(tokenizer, "bread"), tokenizer.end],
    )


def test_what_is_unknown_does_not_take_in_the_beginning_of_a_response(kinds):
    tokenizer = kinds["words, as T5"]
    assert read(tokenizer, "dog ☂☂")[-1] == read(tokenizer, "dog ☂")[-1] == tokenizer.unknown
    assert tokenizer.encode_behind(["dog ☂"], ["☂ dog"]) == [read(tokenizer, "☂ dog")]
