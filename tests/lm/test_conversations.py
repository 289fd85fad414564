"""Conversations through the templates of well-known families: text, boundary, ends, and what is not written."""

import dataclasses
import re

import pytest
from tokenizers import Tokenizer

from gvgap_jax.lm.data import encode
from gvgap_jax.lm.data.formats import CHAT
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.chat_templates import ANSWER, FAMILIES, SYSTEM, TALK
from tests.lm.tiny_tokenizer import CHATML, write_tokenizer

BOUNDARY = "¦"
ROOM = dataclasses.replace(CHAT, prompt_tokens=500, response_tokens=100)


def write_family(folder, family):
    """A tokenizer with the template and all the special tokens that it writes."""
    write_tokenizer(folder, family.template, **family.tokens)
    inner = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = {*family.tokens.values(), *re.findall(r"<[^<>\s]+>", family.written)} - {"<think>", "</think>"}
    inner.add_special_tokens(sorted(tokens))
    inner.add_tokens(["<think>", "</think>"])
    inner.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    return {
        name: open_tokenizer(write_family(tmp_path_factory.mktemp("family"), family))
        for name, family in FAMILIES.items()
    }


def tokens_of(row):
    return row[row >= 0].tolist()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", [False, True], ids=["without a system turn", "with a system turn"])
def test_what_a_family_writes_and_where_its_answers_begin(families, name, system):
    family, tokenizer = FAMILIES[name], families[name]
    talk, written = ([SYSTEM, *TALK], family.with_system) if system else (TALK, family.written)
    row = Demonstration(talk, ANSWER)
    if written is None:
        with pytest.raises(ValueError, match=r"prompt the chat template refuses the messages: .*must alternate"):
            encode.demonstrations([row], tokenizer, ROOM)
        return
    asked, answer = written.split(BOUNDARY)
    assert CHAT.prompt(talk, tokenizer) == asked
    assert CHAT.response(talk, ANSWER, tokenizer) == answer
    assert tokenizer.render(talk, ask=True) == asked + family.opening or name == "Mistral"
    assert tokenizer.turn.opening == family.opening
    end = tokenizer.inner.token_to_id(family.end or family.tokens["eos_token"])
    data = encode.demonstrations([row], tokenizer, ROOM).data
    prompt, response = tokens_of(data.prompts[0]), tokens_of(data.responses[0])
    whole = tokenizer.inner.encode(asked + answer, add_special_tokens=False).ids
    assert prompt + response == whole[: len(prompt + response)]
    assert response[-1] == end
    assert not {*response[:-1]} & {*tokenizer.ends}
    assert end in tokenizer.ends
    assert tokenizer.answers(data.responses) == [ANSWER]
    assert tokenizer.decode(data.responses[0]).strip() == f"{tokenizer.turn.before.strip()}\n\n{ANSWER}".strip()
    assert tokenizer.turn.before == answer.partition(ANSWER)[0]


def test_a_template_that_does_not_begin_answers_leaves_that_to_the_model(tmp_path):
    """As older ones do, which know nothing of ``add_generation_prompt``."""
    template = CHATML.partition("{% endfor %}")[0] + "{% endfor %}"
    tokenizer = open_tokenizer(write_tokenizer(tmp_path, template, eos_token="<|im_end|>"))
    assert CHAT.prompt(TALK[:1], tokenizer) == "<|im_start|>user\nHi<|im_end|>\n"
    data = encode.demonstrations([Demonstration(TALK[:1], ANSWER)], tokenizer, ROOM).data
    assert CHAT.response(TALK[:1], ANSWER, tokenizer) == f"<|im_start|>assistant\n{ANSWER}<|im_end|>\n"
    assert tokenizer.answers(data.responses) == [ANSWER]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("begun", ["It is", "It is "], ids=["whole words", "a blank at the end"])
def test_a_turn_of_the_assistant_is_gone_on_with(families, name, begun):
    family, tokenizer = FAMILIES[name], families[name]
    talk, rest = [*TALK, {"role": "assistant", "content": begun}], ANSWER.removeprefix(begun)
    asked, answer = CHAT.prompt(talk, tokenizer), CHAT.response(talk, rest, tokenizer)
    assert asked + answer == family.written.replace(BOUNDARY, "")
    assert asked.endswith("It is" if "| trim" in family.template or "|trim" in family.template else begun)
    assert answer.lstrip().startswith("4.")


def test_a_turn_that_the_template_does_not_write_cannot_be_gone_on_with(families):
    silent = dataclasses.replace(families["Qwen 2.5"], chat_template="{{ messages[0].content }}")
    with pytest.raises(ValueError, match="ends with a turn of the assistant that the chat template does not write"):
        CHAT.prompt([*TALK, {"role": "assistant", "content": "It"}], silent)


CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "7"}
THOUGHT = {"role": "assistant", "content": "Hello.", "reasoning": "They say hi."}
KEYS = {
    "calls of tools": ([*TALK, CALL, {"role": "tool", "content": "4"}], None),
    "calls of tools behind what goes on": ([*TALK, CALL], "has tool_calls, which the chat template does not write"),
    "the number of a call": ([*TALK, CALL, RESULT], "has tool_call_id, which the chat template does not write"),
    "a name": ([TALK[0] | {"name": "Ann"}], "has name, which the chat template does not write"),
    "a thought of an earlier turn": ([TALK[0], THOUGHT, TALK[2]], "has reasoning, which the chat template does not"),
}


@pytest.mark.parametrize("what", KEYS)
def test_keys_of_messages_are_written_or_the_row_is_refused(families, what):
    talk, reason = KEYS[what]
    if reason is None:
        assert '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>' in CHAT.prompt(
            talk, families["Qwen 3"]
        )
        return
    with pytest.raises(ValueError, match=f"no row fits the format: .*× prompt {reason}"):
        encode.prompts([Demonstration(talk, "x")], families["Qwen 3"], ROOM)


ONLY_TURNS = CHATML.replace("%}\n<|im_start|>{{", " if message.role in ('user', 'assistant') %}\n<|im_start|>{{")
NO_THOUGHTS = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
NO_CONTENT = CHATML.replace("{{ message['content'] | trim }}", "")
LOST = {
    "a system message": (ONLY_TURNS, "system", [SYSTEM, *TALK]),
    "what a tool says": (ONLY_TURNS, "tool", [*TALK, {"role": "tool", "content": "4"}]),
    "all messages": (NO_CONTENT, "user", TALK),
    "what goes on": (ONLY_TURNS, "system", [SYSTEM, *TALK, {"role": "assistant", "content": "It is"}]),
}


@pytest.mark.parametrize("what", LOST)
def test_a_message_that_the_template_does_not_write_refuses_the_row(families, what):
    template, role, talk = LOST[what]
    tokenizer = dataclasses.replace(families["Qwen 2.5"], chat_template=template)
    found = CHAT.prompts([talk, TALK[:1]], tokenizer)
    assert str(found[0]) == f"has a message of the role {role}, which the chat template does not write"
    assert isinstance(found[1], str) == (template == ONLY_TURNS)


def test_messages_that_the_template_rewrites_are_written(families):
    """Thoughts of earlier turns are left out, tools' answers are JSON, and blanks are others."""
    template = NO_THOUGHTS.replace("| trim", "| trim | tojson")
    tokenizer = dataclasses.replace(families["Qwen 2.5"], chat_template=template)
    talk = [
        TALK[0],
        {"role": "assistant", "content": "<think>hm</think>Hello."},
        {"role": "user", "content": 'a "b"\n '},
    ]
    assert CHAT.prompt(talk, tokenizer) == (
        '<|im_start|>user\n"Hi"<|im_end|>\n<|im_start|>assistant\n"Hello."<|im_end|>\n'
        '<|im_start|>user\n"a \\"b\\""<|im_end|>\n<|im_start|>assistant\n'
    )


def test_an_answer_whose_thoughts_the_template_leaves_out_refuses_the_row(families):
    tokenizer = dataclasses.replace(families["Qwen 2.5"], chat_template=NO_THOUGHTS)
    rows = [Comparison(TALK, ANSWER, "<think>hm</think>no"), Comparison(TALK, ANSWER, "no")]
    found = encode.preferences(rows, tokenizer, ROOM)
    assert found.rows == rows[1:]
    assert [each.reason for each in found.dropped] == [
        "rejected is not written whole by the chat template: it leaves out a part, such as thoughts"
    ]
    thoughts = "<think>\nhm\n</think>\n\nno"
    kept = encode.preferences([Comparison(TALK, ANSWER, thoughts)], families["Qwen 3"], ROOM)
    assert families["Qwen 3"].decode(kept.data.rejected[0]) == thoughts


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_is_written_under_whichever_name(families, name):
    template = CHATML.replace(
        "{{ message['content'] | trim }}", "{{ message.content }}{{ message.reasoning_content }}/{{ message.thinking }}"
    )
    talk = [TALK[0], {"role": "assistant", "content": "Hello.", name: "They say hi."}, TALK[2]]
    tokenizer = dataclasses.replace(families["Qwen 2.5"], chat_template=template)
    assert "They say hi./They say hi." in CHAT.prompt(talk, tokenizer)
