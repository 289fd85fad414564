"""Servers that write their answers otherwise: in parts, as events, with thoughts, with failures inside of successes."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from gvgap_jax.lm.judges import replies
from gvgap_jax.lm.judges.endpoint import REMINDER, Endpoint, endpoint, spent
from gvgap_jax.lm.judges.verdicts import Question, Template, after_thoughts, letter
from tests.lm.served import answer, serving

TEMPLATE = Template("test-1", "{prompt} {first} {second}")
QUESTIONS = [Question("which?", "5", "3")]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-SECRET-1234")


def settings(server, **changes):
    address = f"http://127.0.0.1:{server.server_port}/v1"
    return Endpoint("m", address, "JUDGE_KEY", TEMPLATE, **{"max_retries": 1, "parallel": 1} | changes)


def said(message, finish="stop", **more):
    return answer(choices=[{"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}], **more)


def send(page, **how):
    return lambda handler: handler.send((page if isinstance(page, str) else json.dumps(page)).encode(), **how)


def events(*pieces, end="data: [DONE]\n\n", between="\n\n", **last):
    chunks = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}] if end else []
    chunks += [{"choices": []} | last] if last else []
    return "".join(f"data: {json.dumps(chunk)}{between}" for chunk in chunks) + end


ROLE = {"role": "assistant", "content": ""}
READ = {  # all of these say A
    "text": said({"content": "Shorter.\nA"}),
    "parts": said({"content": [{"type": "text", "text": "Shorter.\n"}, {"type": "text", "text": "A"}]}),
    "parts without kinds": said({"content": ["Shorter.\n", {"text": "A"}]}),
    "parts of output": said({"content": [{"type": "output_text", "text": "A"}]}),
    "a part of thoughts": said({"content": [{"type": "thinking", "thinking": [{"text": "B"}]}, {"text": "A"}]}),
    "a part of reasoning": said({"content": [{"type": "text", "text": "A"}, {"type": "reasoning", "text": "\nB"}]}),
    "thoughts apart": said({"content": "A", "reasoning_content": "so\nB"}),
    "reasoning apart": said({"content": "A", "reasoning": "so\nB", "reasoning_details": [{"text": "B"}]}),
    "thoughts in front": said({"content": "<think>perhaps\nB\n</think>\n\nA"}),
    "thoughts whose start the template wrote": said({"content": "perhaps\nB\n</think>\nA"}),
    "thoughts in brackets": said({"content": "[THINK]B[/THINK]A"}),
    "thoughts and JSON": said({"content": "<thinking>B</thinking>{\"winner\": \"A\"}"}),
    "an error that is null": said({"content": "A"}, error=None),
    "an error that is empty": said({"content": "A"}, error={}),
    "no finish reason": said({"content": "A"}, finish=None),
    "events": events(ROLE, {"content": "Shorter.\n"}, {"content": "A"}),
    "events with one line feed": events(ROLE, {"content": "A"}, between="\r\n"),
    "events that count": events({"content": "A"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
    "events with thoughts": events({"reasoning_content": "so\n"}, {"reasoning_content": "B"}, {"content": "A"}),
    "events with a comment": ": OPENROUTER PROCESSING\n\n" + events({"content": "A"}),
    "a comment before a page": ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n" + said({"content": "A"}),
    "blanks before a page": "\n \n\n" + said({"content": "A"}),
    "a byte-order mark": "\ufeff" + said({"content": "A"}),
    "events with a separator in a text": events({"content": "x\u2028y\u0085z\n"}, {"content": "A"}),
    "events without the last word": events({"content": "A"}, end="\n"),
    "events with whole messages": 'data: {"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}\n\n',
}  # fmt: skip


@pytest.mark.parametrize("what", READ)
def test_an_answer_is_read_however_it_is_written(what, tmp_path):
    with serving(send(READ[what], Content_Type="text/event-stream" if "events" in what else "text/plain")) as server:
        found = endpoint(settings(server), tmp_path)(QUESTIONS)
        assert (found.wins.tolist(), found.position_bias.tolist(), found.reasons) == ([0.5], [1.0], {})
        endpoint(settings(server), tmp_path)(QUESTIONS)
    assert len(server.asked) == 2, "both answers are stored"


def test_events_are_counted_where_they_count(tmp_path):
    page = events({"content": "A"}, usage={"prompt_tokens": 70, "completion_tokens": 4})
    with serving(send(page)) as server:
        endpoint(settings(server), tmp_path)(QUESTIONS)
        assert spent(settings(server), tmp_path)[:3] == (2, 140, 8)


def test_a_key_in_pieces_of_events_is_not_stored(tmp_path):
    page = events({"content": "sk-SEC"}, {"content": "RET-1234\nA"})
    with serving(send(page)) as server:
        endpoint(settings(server), tmp_path)(QUESTIONS)
    stored = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir() if path.is_file())
    assert "[key]" in stored
    assert "RET-1234" not in stored


USAGES = {
    "none": {"usage": None},
    "left out": {},
    "a total alone": {"usage": {"total_tokens": 4}},
    "answers that are null": {"usage": {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 3}},
    "text": {"usage": {"prompt_tokens": "3", "completion_tokens": "1"}},
    "a list": {"usage": [3, 1]},
    "nothing": {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
}


@pytest.mark.parametrize("what", USAGES)
def test_tokens_that_are_not_counted_are_estimated_thoughts_included(what, tmp_path):
    page = said({"content": "\nA", "reasoning": "x" * 25}, **USAGES[what])
    with serving(send(page)) as server:
        assert endpoint(settings(server), tmp_path)(QUESTIONS).wins == [0.5]
        assert spent(settings(server), tmp_path)[:3] == (2, 2 * 3, 2 * math.ceil((2 + 25 + 15) / 4))


def test_thoughts_that_are_counted_in_the_total_alone_are_paid_for(tmp_path):
    page = said({"content": "A"}, usage={"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 58})
    with serving(send(page)) as server:
        endpoint(settings(server), tmp_path)(QUESTIONS)
        assert spent(settings(server), tmp_path)[:3] == (2, 14, 2 * 51)


UNDECIDED = {  # pages that decide nothing: why, how often both orders are asked in two runs, and how many are stored
    "no choices": (answer(choices=[]), "the server sent no answer: it has no choices", 4, 0),
    "choices that are null": (answer(choices=None), "the server sent no answer: it has no choices", 4, 0),
    "no message": (answer(choices=[{}]), "the server sent no answer: its message is null", 4, 0),
    "a message that is null": (answer(choices=[{"message": None}]), "its message is null", 4, 0),
    "a message that is a text": (answer(choices=[{"message": "A"}]), "its message is \"A\"", 4, 0),
    "a text that is a number": (said({"content": 7}), "its text is 7", 4, 0),
    "a text that is an object": (said({"content": {"A": 1}}), 'its text is {"A": 1}', 4, 0),
    "parts that are numbers": (said({"content": [7]}), r"its text is \[7\]", 4, 0),
    "an end that is an object": (said({"content": "A"}, finish={"a": 1}), 'its finish reason is {"a": 1}', 4, 0),
    "an error for an end": (said({"content": None}, finish="error"), "it ended with an error", 4, 0),
    "an error of the model": ({"error": {"message": "no such thing"}}, r"refused \(400\): .*no such thing", 4, 0),
    "an error beside choices": (said({"content": "A"}, error={"message": "bad", "code": 400}), "refused .*bad", 4, 0),
    "an error that is text": ({"error": "bad luck"}, "refused .400.: .*bad luck", 4, 0),
    "an error that is the page": ({"object": "error", "message": "too long", "code": 400}, "400.: .*too long", 4, 0),
    "an error in a choice": (
        answer(choices=[{"error": {"code": 400, "message": "odd"}, "message": {"content": "A"}}]), "400.: .*odd", 4, 0,
    ),
    "an error as an event": ('data: {"error": {"message": "bad luck"}}\n\n', "refused .400.: .*bad luck", 4, 0),
    "a refusal": (said({"content": None, "refusal": "I cannot do\nA"}), r"the model refuses: 'I cannot do\\nA'", 2, 2),
    "a filter": (said({"content": "I\nA"}, finish="content_filter"), "stopped by the server's filter .content", 2, 2),
    "another filter": (said({"content": None}, finish="SAFETY"), r"stopped by the server's filter \(SAFETY", 2, 2),
    "nothing": (said({"content": None}), "the answer ends '', which is not A, B or C", 4, 4),
    "thoughts alone": (said({"content": "", "reasoning": "so\nA"}), "has thoughts, and nothing after them", 4, 4),
    "thoughts without an end": (said({"content": "<think>so\nA"}), "has thoughts, and nothing after them", 4, 4),
    "thoughts that were cut off": (
        said({"content": "<think>so\nA"}, finish="length"), "cut off in its thoughts .*more answer_tokens", 2, 2,
    ),
    "thoughts apart that were cut off": (
        said({"content": None, "reasoning_content": "so\nA"}, finish="length"), "cut off in its thoughts", 2, 2,
    ),
    "an answer that was cut off": (said({"content": "so\nA"}, finish="MAX_TOKENS"), "answer was cut off after", 2, 2),
    "no word before the cut": (said({"content": None}, finish="length"), "cut off before its first word", 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDECIDED)
def test_what_decides_nothing_says_why_and_is_stored_only_if_it_is_an_answer(what, tmp_path):
    page, why, asked, stored = UNDECIDED[what]

    def rule(handler):
        prompt = handler.body["messages"][0]["content"]
        send(answer("A") if prompt.startswith("sure") else page)(handler)

    questions = [*QUESTIONS, Question("sure", "1", "2")]
    with serving(rule) as server:
        for _ in range(2):
            found = endpoint(settings(server), tmp_path)(questions)
            np.testing.assert_array_equal(found.wins, [np.nan, 0.5])
            assert list(found.reasons) == [0]
            assert pytest.raises(AssertionError, match=why).matches(AssertionError(found.reasons[0]))
        assert spent(settings(server), tmp_path).requests == stored + 2
    assert len([each for each in server.asked if each["messages"][0]["content"].startswith("which")]) == asked


PASSING = {
    "a status as a number": {"error": {"code": 429, "message": "slow down"}},
    "a status as text": {"error": {"code": "503", "message": "?"}},
    "a rate": {"error": {"message": "Rate limit reached for m", "type": "requests", "code": None}},
    "a kind": {"error": {"type": "rate_limit_error", "message": "?"}},
    "an overload": {"error": {"type": "overloaded_error", "message": "Overloaded"}},
    "a provider": {"error": {"code": 502, "message": "Provider returned error"}, "choices": []},
    "a choice": {"choices": [{"error": {"code": 502, "message": "?"}, "message": {"content": "A"}}]},
    "text": {"error": "The model is busy, try again later"},
    "an event": 'data: {"error": {"message": "overloaded"}}\n\n',
    "events that break off": events({"content": "I think\nA"}, end=""),
}


@pytest.mark.parametrize("what", PASSING)
def test_a_passing_failure_inside_of_a_success_is_asked_again(what, tmp_path):
    def rule(handler):
        send(PASSING[what] if len(server.asked) < 3 else answer("A"), retry_after_ms="1")(handler)

    with serving(rule) as server:
        assert endpoint(settings(server, max_retries=2), tmp_path)(QUESTIONS).wins == [0.5]
        assert len(server.asked) == 2 + 2
        server.asked.clear()
        server.rule = send(PASSING[what], retry_after_ms="1")
        with pytest.raises(OSError, match=r"All answers so far are kept") as failed:
            endpoint(settings(server, max_retries=1), tmp_path)([Question("other", "1", "2")])
        assert len(server.asked) == 2
        assert spent(settings(server), tmp_path).requests == 2
    assert "m at http" in str(failed.value)


def refusing(*names, words="Unsupported parameter: '{}' is not supported with this model."):
    """A server that takes no such settings, and says so in its own words."""

    def rule(handler):
        named = [name for name in names if name in handler.body]
        if named:
            page = {"error": {"message": words.format(named[0])}} if isinstance(words, str) else words(named[0])
            return send(page, status=400 if "error" in page else 422)(handler)
        return send(answer("A"))(handler)

    return rule


WORDS = [
    "Unsupported value: '{}' does not support 0.0 with this model. Only the default (1) value is supported.",
    "Unrecognized request argument supplied: {}",
    "`{}` is deprecated for this model.",
    lambda name: {"error": {"message": "Invalid value", "param": name, "code": "unsupported_value"}},
    lambda name: {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"}]},
    lambda name: {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", name]}]}},
    lambda name: f"unknown field {name}",
]


@pytest.mark.parametrize(
    "words", WORDS, ids=["OpenAI", "an older OpenAI", "Anthropic", "a parameter", "FastAPI", "Mistral", "text"]
)
@pytest.mark.parametrize(
    "names", [("temperature",), ("max_completion_tokens",), ("temperature", "max_completion_tokens")], ids=" ".join
)
def test_settings_that_a_server_refuses_are_left_out_and_remembered(names, words, tmp_path):
    questions = [*QUESTIONS, Question("more", "1", "2")]
    with serving(refusing(*names, words=words)) as server:
        judge = endpoint(settings(server), tmp_path)
        with pytest.warns(UserWarning, match="takes no") as said:
            assert judge(questions).wins.tolist() == [0.5, 0.5]
        assert len(said) == len(names)
        assert len(server.asked) == 4 + len(names), "each is refused once"
        with warnings.catch_warnings(action="error"):
            judge([Question("again", "1", "2")])  # remembered, and said once
        assert len(server.asked) == 6 + len(names)
        last = server.asked[-1]
        assert ("temperature" in last) == ("temperature" not in names)
        limit = "max_tokens" if "max_completion_tokens" in names else "max_completion_tokens"
        assert {key: value for key, value in last.items() if key.startswith("max")} == {limit: 256}
        endpoint(settings(server), tmp_path)(questions)
        assert len(server.asked) == 6 + len(names), "answers are found under the settings that were asked for"


def test_a_refusal_that_only_quotes_the_prompt_changes_nothing(tmp_path):
    def rule(handler):
        prompt = handler.body["messages"][0]["content"]
        refused = json.dumps({"error": {"message": f"filtered: {prompt}"}})
        send(refused if "fever" in prompt else answer("A"), status=400 if "fever" in prompt else 200)(handler)

    with serving(rule) as server:
        questions = [*QUESTIONS, Question("fever: my temperature is high", "1", "2")]
        found = endpoint(settings(server), tmp_path)(questions)
        np.testing.assert_array_equal(found.wins, [0.5, np.nan])
        assert len(server.asked) == 4
        assert all("temperature" in each for each in server.asked)


def test_a_prompt_that_is_forbidden_stops_no_other(tmp_path):
    """OpenRouter says so with the status of a key that is refused."""

    def rule(handler):
        flagged = "bomb" in handler.body["messages"][0]["content"]
        error = json.dumps({"error": {"message": "The model requires moderation and your input was flagged"}})
        send(error if flagged else answer("A"), status=403 if flagged else 200)(handler)

    with serving(rule) as server:
        found = endpoint(settings(server), tmp_path)([Question("bomb", "1", "2"), *QUESTIONS])
        np.testing.assert_array_equal(found.wins, [np.nan, 0.5])
        assert "refused (403): " in found.reasons[0]
        assert "input was flagged" in found.reasons[0]
        server.rule = send(json.dumps({"error": {"message": "no such key"}}), status=403)
        with pytest.raises(ValueError, match=r"refuses the key in JUDGE_KEY \(403\).*no such key"):
            endpoint(settings(server), tmp_path)([Question("other", "1", "2")])


def test_a_refusal_that_names_a_setting_in_vain_is_forgotten(tmp_path):
    def rule(handler):
        long = handler.body["messages"][0]["content"].startswith("long")
        error = {"error": {"message": "this and max_completion_tokens are more than 4096 tokens"}}
        send(error if long else answer("A"), status=400 if long else 200)(handler)

    with serving(rule) as server:
        found = endpoint(settings(server), tmp_path)([Question("long", "1", "2"), *QUESTIONS])
        assert found.reasons[0].startswith("the request was refused (400): ")
        assert "max_completion_tokens" in server.asked[-1]


def test_sentences_name_options_as_a_command_has_them(tmp_path):
    named = {"prefix": "--endpoint.", "answer_tokens": 7}
    with serving(send(said({"content": "so\nA"}, finish="length"))) as server:
        found = endpoint(settings(server, **named), tmp_path)(QUESTIONS)
        assert found.reasons[0].endswith(": allow more --endpoint.answer_tokens")
        server.rule = refusing("temperature")
        with pytest.warns(UserWarning, match=r"takes no temperature of 0: .*; --endpoint.temperature None says so"):
            endpoint(settings(server, prefix="--endpoint."), tmp_path)(QUESTIONS)
        server.rule = send({"error": {"code": 429, "message": "slow"}}, retry_after_ms="1")
        with pytest.raises(OSError, match=r"lower --endpoint\.parallel"):
            endpoint(settings(server, **named), tmp_path)([Question("other", "1", "2")])
        with pytest.raises(ValueError, match=r"with a higher --endpoint\.cap"):
            endpoint(settings(server, **named, cap=1e-9, prompt_price=1.0), tmp_path)([Question("other", "1", "2")])
        endpoint(settings(server, **named), tmp_path)(QUESTIONS)  # no prefix decides an answer


CHILD = """
from gvgap_jax.lm.judges.endpoint import Endpoint, endpoint
from gvgap_jax.lm.judges.verdicts import Question, Template
settings = Endpoint("m", "{address}", "JUDGE_KEY", Template("test-1", "{{prompt}} {{first}} {{second}}"), parallel=1)
endpoint(settings, "{folder}")([Question("which?", "5", "3"), Question("which?", "4", "1")])
"""


def test_a_paid_answer_without_a_letter_is_not_asked_for_again_after_a_kill(tmp_path):
    third, go = threading.Event(), threading.Event()

    def rule(handler):
        if len(server.asked) == 3:
            third.set()
            go.wait(30)
        send(said({"content": [{"type": "text", "text": "It depends."}]}))(handler)

    with serving(rule) as server:
        program = CHILD.format(address=settings(server).base_url, folder=tmp_path)
        with subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"JAX_PLATFORMS": "cpu"}) as child:
            assert third.wait(60)
            child.send_signal(signal.SIGKILL)
            child.wait()
        go.set()
        server.asked.clear()
        endpoint(settings(server), tmp_path)(QUESTIONS)
        prompts = [each["messages"][0]["content"] for each in server.asked]
        assert prompts == ["which? 3 5", f"which? 5 3{REMINDER}", f"which? 3 5{REMINDER}"], "the first was under way"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>A</think>B", "B"),
        ("<THINK>A</THINK>\nB", "B"),
        ("<think>A</think><think>C</think>B", "B"),
        ("<think>A", None),
        ("B\n<think>A", None),
        ("A</think>", None),
        ("so <reasoning>x</reasoning>\n**B**", "B"),
        ("if a < b and c > d\nB", "B"),
    ],
)
def test_thoughts_are_no_answer(text, found):
    assert letter(text) == found
    assert letter(after_thoughts(text)) == found


def test_a_page_that_is_no_success_story_keeps_its_status():
    for page in ("no JSON", "[" * 10**5, '["error"]', "{}", '{"error": null}'):
        assert replies.honest(200, page) == (200, page)
    assert replies.honest(200, '{"error": {"code": 200, "message": "odd"}}')[0] == 400
    assert replies.honest(200, '{"error": {"code": "401"}}')[0] == 401
    assert replies.honest(404, '{"error": "no model"}') == (404, '{"error": {"message": "no model"}}')
    assert replies.honest(422, '{"detail": [1]}') == (422, json.dumps({"error": {"message": '{"detail": [1]}'}}))
    assert replies.honest(302, "") == (302, "")
    assert replies.whole("data is not always an event") == "data is not always an event"
    assert replies.whole("data: {") == "data: {"
