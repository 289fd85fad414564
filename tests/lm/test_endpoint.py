"""Questions to a stand-in server that answers by a rule, fails, is biased or talks nonsense, and counts requests."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from gvgap_jax.lm.judges import endpoint as endpoints
from gvgap_jax.lm.judges.endpoint import REMINDER, Endpoint, cost_estimate, endpoint, spent
from gvgap_jax.lm.judges.verdicts import Question, Template

NAN = float("nan")
TEMPLATE = Template("test-1", "{prompt} {first} {second}")
QUESTIONS = [Question("which?", "5", "3"), Question("which?", "3", "5"), Question("which?", "4", "1")]
DOLLAR = {"characters_per_token": 1000.0, "prompt_price": 4e5, "answer_price": 6e4, "answer_tokens": 10}  # a request


class Status(Exception):  # noqa: N818  an answer of the server, raised by a rule
    pass


def larger(prompt):
    """The rule of an honest server: the larger number is better."""
    first, second = map(int, prompt.removesuffix(REMINDER).split()[1:3])
    return "A" if first > second else "B" if second > first else "C"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.server.bodies.append(body)
        try:
            failing = self.server.failures.pop() if self.server.failures else None
            if failing:
                raise Status(failing)
            text = self.server.rule(prompt)
        except Status as status:
            self.send(status.args[0], json.dumps({"error": {"message": f"no: {prompt[:20]}"}}))
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.server.finish}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.send(200, self.server.page or json.dumps(reply | {"usage": self.server.usage}))

    def send(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.rule, server.failures, server.bodies, server.finish, server.page = larger, [], [], "stop", None
        server.content_type = "application/json"
        server.usage = {"prompt_tokens": 1, "completion_tokens": 10, "total_tokens": 11}
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(server):
    def make(**changes):
        address = f"http://127.0.0.1:{server.server_port}/v1"
        defaults = {"model": "m", "base_url": address, "key_variable": "JUDGE_KEY", "template": TEMPLATE}
        return Endpoint(**(defaults | changes))

    return make


def test_an_honest_server_decides_and_is_asked_in_both_orders(server, settings, tmp_path):
    found = endpoint(settings(), tmp_path)(QUESTIONS)
    np.testing.assert_array_equal(found.wins, [1, 0, 1])
    np.testing.assert_array_equal(found.position_bias, [0, 0, 0])
    assert found.reasons == {}
    asked = {"which? 5 3", "which? 3 5", "which? 4 1", "which? 1 4"}  # the second question is the first one swapped
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == sorted(asked)
    assert server.bodies[0] | {"messages": []} == {
        "model": "m",
        "messages": [],
        "max_completion_tokens": 256,
        "temperature": 0.0,
    }


def test_swapping_cancels_a_bias_for_the_first(server, settings, tmp_path):
    server.rule = lambda prompt: "A" if int(prompt.split()[2]) < 5 else larger(prompt)  # only a 5 can win when second
    found = endpoint(settings(), tmp_path)([Question("which?", "4", "1"), Question("which?", "1", "5")])
    np.testing.assert_array_equal(found.wins, [0.5, 0])
    np.testing.assert_array_equal(found.position_bias, [1, 0])


def test_a_win_and_a_tie_is_a_tie(server, settings, tmp_path):
    server.rule = {"which? 2 1": "A", "which? 1 2": "C"}.get
    found = endpoint(settings(), tmp_path)([Question("which?", "2", "1"), Question("which?", "1", "2")])
    np.testing.assert_array_equal(found.wins, [0.5, 0.5])
    np.testing.assert_array_equal(found.position_bias, [0.5, 0.5])


def test_no_questions_are_no_requests(server, settings, tmp_path):
    assert endpoint(settings(), tmp_path)([]).wins.shape == (0,)
    assert not server.bodies


def test_what_is_the_same_is_asked_once(server, settings, tmp_path):
    found = endpoint(settings(), tmp_path)([QUESTIONS[0]] * 3 + [Question("which?", "7", "7")])
    np.testing.assert_array_equal(found.wins, [1, 1, 1, 0.5])
    assert len(server.bodies) == 3


def test_a_second_run_asks_nothing_not_even_for_a_key(server, settings, tmp_path, monkeypatch):
    first = endpoint(settings(), tmp_path)(QUESTIONS)
    monkeypatch.delenv("JUDGE_KEY")
    second = endpoint(settings(), tmp_path)(QUESTIONS)
    np.testing.assert_array_equal(first.wins, second.wins)
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    "changes",
    [{"model": "n"}, {"temperature": None}, {"answer_tokens": 9}, {"template": Template("test-2", TEMPLATE.text)}],
    ids=str,
)
def test_other_settings_are_other_questions(server, settings, tmp_path, changes):
    endpoint(settings(), tmp_path)(QUESTIONS)
    endpoint(settings(parallel=1, timeout=9.0, prompt_price=1.0), tmp_path)(QUESTIONS)
    assert len(server.bodies) == 4
    endpoint(settings(**changes), tmp_path)(QUESTIONS)
    assert len(server.bodies) == 8
    assert ("temperature" in server.bodies[-1]) == ("temperature" not in changes)


CHILD = """
from gvgap_jax.lm.judges.endpoint import Endpoint, endpoint
from gvgap_jax.lm.judges.verdicts import Question, Template
settings = Endpoint("m", "{address}", "JUDGE_KEY", Template("test-1", "{{prompt}} {{first}} {{second}}"), parallel=1)
endpoint(settings, "{folder}")([Question("which?", "5", "3"), Question("which?", "4", "1")])
"""


def test_a_killed_run_loses_no_answer(server, settings, tmp_path):
    third, go = threading.Event(), threading.Event()

    def stuck(prompt):
        if len(server.bodies) == 3:
            third.set()
            go.wait(30)
        return larger(prompt)

    server.rule = stuck
    program = CHILD.format(address=settings().base_url, folder=tmp_path)
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"JAX_PLATFORMS": "cpu"}) as child:
        assert third.wait(60)
        child.send_signal(signal.SIGKILL)
        child.wait()
    go.set()
    assert spent(settings(), tmp_path).requests == 2
    found = endpoint(settings(), tmp_path)([QUESTIONS[0], QUESTIONS[2]])
    np.testing.assert_array_equal(found.wins, [1, 1])
    assert len(server.bodies) == 5  # the third was under way


def test_so_many_requests_are_under_way_at_once(server, settings, tmp_path):
    together = threading.Barrier(4, timeout=10)

    def wait_for_the_others(prompt):
        together.wait()
        return larger(prompt)

    server.rule = wait_for_the_others
    found = endpoint(settings(parallel=4), tmp_path)([Question("which?", str(k), "0") for k in range(1, 5)])
    np.testing.assert_array_equal(found.wins, [1, 1, 1, 1])


def test_threads_that_share_a_folder_ask_everything_once(server, settings, tmp_path):
    questions = [Question("which?", str(k), "0") for k in range(1, 11)]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(endpoint(settings(), tmp_path)(questions).wins)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, np.ones((4, 10)))
    assert len(server.bodies) == 20


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_passing_failures_are_retried(server, settings, tmp_path, status):
    server.failures = [status] * 3
    found = endpoint(settings(parallel=1, max_retries=3), tmp_path)(QUESTIONS)
    np.testing.assert_array_equal(found.wins, [1, 0, 1])
    assert len(server.bodies) == 4 + 3


def test_an_unclear_answer_is_asked_for_once_more(server, settings, tmp_path):
    server.rule = lambda prompt: larger(prompt) if prompt.endswith(REMINDER) else "Both have their merits."
    found = endpoint(settings(), tmp_path)(QUESTIONS[:1])
    np.testing.assert_array_equal(found.wins, [1])
    assert len(server.bodies) == 4
    endpoint(settings(), tmp_path)(QUESTIONS[:1])
    assert len(server.bodies) == 4


def test_what_stays_unclear_is_undecided_with_a_reason(server, settings, tmp_path):
    server.rule = lambda prompt: "It depends." if "4" in prompt else larger(prompt)
    for _ in range(2):
        found = endpoint(settings(), tmp_path)(QUESTIONS)
        np.testing.assert_array_equal(found.wins, [1, 0, NAN])
        np.testing.assert_array_equal(found.position_bias, [0, 0, NAN])
        assert found.reasons == {2: "the answer ends 'It depends.', which is not A, B or C"}
        assert len(server.bodies) == 4 + 2


def test_a_reminder_that_is_refused_is_one_undecided_question(server, settings, tmp_path):
    def refuse(prompt):
        if prompt.endswith(REMINDER):
            raise Status(400)
        return "?" if prompt == "which? 4 1" else larger(prompt)

    server.rule = refuse
    found = endpoint(settings(), tmp_path)(QUESTIONS)
    np.testing.assert_array_equal(found.wins, [1, 0, NAN])
    assert found.reasons[2].startswith("the request was refused (400): ")


def test_one_unclear_order_decides_nothing(server, settings, tmp_path):
    server.rule = lambda prompt: None if prompt.startswith("which? 1 4") else larger(prompt)
    found = endpoint(settings(), tmp_path)(QUESTIONS)
    np.testing.assert_array_equal(found.wins, [1, 0, NAN])
    assert found.reasons == {2: "the answer ends '', which is not A, B or C"}


def test_an_answer_that_was_cut_off_is_not_read(server, settings, tmp_path):
    server.finish = "length"
    found = endpoint(settings(answer_tokens=10), tmp_path)(QUESTIONS[:1])
    np.testing.assert_array_equal(found.wins, [NAN])
    assert found.reasons == {0: "the answer was cut off after 10 tokens: allow more answer_tokens"}


@pytest.mark.parametrize("parallel", [1, 3, 16])
def test_the_cap_stops_at_the_last_request_that_it_can_pay(server, settings, tmp_path, parallel):
    questions = [Question("which?", str(k), "0") for k in range(1, 6)]
    costs = settings(**DOLLAR, cap=4.0, parallel=parallel)  # 1 token of 0.4 dollars, 10 of 0.06
    with pytest.raises(ValueError, match=r"cap of \$4: 4 of 10 were answered now, and \$4 spent in all.*higher cap"):
        endpoint(costs, tmp_path)(questions)
    assert len(server.bodies) == 4
    with pytest.raises(ValueError, match=r"0 of 6 were answered now, and \$4 spent in all"):
        endpoint(costs, tmp_path)(questions)
    assert len(server.bodies) == 4
    found = endpoint(settings(**DOLLAR, cap=10.0), tmp_path)(questions)
    np.testing.assert_array_equal(found.wins, np.ones(5))
    assert len(server.bodies) == 10
    assert spent(costs, tmp_path) == pytest.approx((10, 10, 100, 10.0))


@pytest.mark.parametrize("parallel", [1, 3, 16])
def test_what_answers_save_goes_into_more_of_them(server, settings, tmp_path, parallel):
    server.usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}  # 0.4 dollars, 1 was reserved
    with pytest.raises(ValueError, match="6 of 10 were answered"):
        endpoint(settings(**DOLLAR, cap=3.0, parallel=parallel), tmp_path)(
            [Question("which?", str(k), "0") for k in range(1, 6)]
        )
    assert len(server.bodies) == 6  # 5 for 2 dollars and 1 more; then 2.4 and 1 would be more than 3


def test_unclear_answers_are_paid_too(server, settings, tmp_path):
    server.rule = lambda prompt: "?"
    with pytest.raises(ValueError, match="1 of 2 were answered now"):
        endpoint(settings(**DOLLAR, cap=3.0), tmp_path)(QUESTIONS[:1])
    assert len(server.bodies) == 3


def test_usage_that_the_server_does_not_tell_is_estimated(server, settings, tmp_path):
    server.usage = None
    priced = settings(prompt_price=3.0, answer_price=5.0)
    endpoint(priced, tmp_path)(QUESTIONS[:1])
    assert spent(priced, tmp_path) == pytest.approx((2, 2 * 3, 2 * 1, (6 * 3 + 2 * 5) / 1e6))  # 10 characters, 1


def test_the_estimate_comes_before_the_first_request(server, settings):
    found = cost_estimate(QUESTIONS, settings(prompt_price=2.5, answer_price=10.0, answer_tokens=100))
    assert found == pytest.approx((4, 4 * math.ceil(10 / 4), 400, (12 * 2.5 + 400 * 10) / 1e6))
    assert not server.bodies


def test_nothing_is_spent_in_a_new_folder(settings, tmp_path):
    assert spent(settings(), tmp_path / "new" / "folder") == (0, 0, 0, 0.0)


FATAL = {
    401: (ValueError, "m at http.* refuses the key in JUDGE_KEY .401"),
    403: (ValueError, "refuses the key in JUDGE_KEY .403"),
    404: (ValueError, "is not there .404.: name another model or address"),
    429: (OSError, r"too many requests, .*after 2 tries .429.: wait, or lower parallel"),
    500: (OSError, "failed.*no: which?"),
    418: (OSError, "failed.*no: which?"),
}


@pytest.mark.parametrize("status", FATAL)
def test_a_server_that_fails_is_one_sentence_and_what_was_answered_is_kept(server, settings, tmp_path, status):
    def fail(prompt):
        if "4" in prompt:
            raise Status(status)
        return larger(prompt)

    server.rule = fail
    kind, message = FATAL[status]
    with pytest.raises(kind, match=message) as failed:
        endpoint(settings(max_retries=1, parallel=1), tmp_path)(QUESTIONS)
    assert "All answers so far are kept; run again to go on." in str(failed.value)
    assert "secret" not in str(failed.value)
    assert spent(settings(), tmp_path).requests == 2
    server.rule, asked = larger, len(server.bodies)
    np.testing.assert_array_equal(endpoint(settings(), tmp_path)(QUESTIONS).wins, [1, 0, 1])
    assert len(server.bodies) == asked + 2


def test_what_is_under_way_when_another_request_fails_is_kept(server, settings, tmp_path):
    failed = threading.Event()

    def fail(prompt):
        if prompt == "which? 5 3":
            failed.set()
            raise Status(401)
        assert failed.wait(10)
        return larger(prompt)

    server.rule = fail
    with pytest.raises(ValueError, match="401"):
        endpoint(settings(), tmp_path)(QUESTIONS)
    assert spent(settings(), tmp_path).requests == 3


def test_a_request_that_is_refused_is_one_undecided_question(server, settings, tmp_path):
    def refuse(prompt):
        if "4" in prompt:
            raise Status(400)
        return larger(prompt)

    server.rule = refuse
    for asked in (4, 6):  # refusals cost nothing, and another time the server may be of another mind
        found = endpoint(settings(), tmp_path)(QUESTIONS)
        np.testing.assert_array_equal(found.wins, [1, 0, NAN])
        assert list(found.reasons) == [2]
        assert found.reasons[2].startswith("the request was refused (400): ")
        assert len(server.bodies) == asked


def test_a_server_that_takes_nothing_is_an_error(server, settings, tmp_path):
    server.failures = [422] * 4
    with pytest.raises(ValueError, match=r"takes none of the requests: the request was refused \(422\).*no: which?"):
        endpoint(settings(), tmp_path)(QUESTIONS)


def test_a_missing_key_is_named(server, settings, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match="the environment variable JUDGE_KEY holds no key for http"):
        endpoint(settings(), tmp_path)(QUESTIONS)


def test_a_server_that_is_not_there_is_named(settings, tmp_path):
    nobody = settings(base_url="http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(OSError, match=r"m at http://127.0.0.1:9/v1 cannot be reached, in 1 tries: is the server up"):
        endpoint(nobody, tmp_path)(QUESTIONS)


def test_a_server_that_is_too_slow_is_named(server, settings, tmp_path):
    slow = threading.Event()
    server.rule = lambda prompt: "A" if slow.wait(10) else "B"
    with pytest.raises(OSError, match=r"did not answer within 0.05 s, in 1 tries"):
        endpoint(settings(timeout=0.05, max_retries=0), tmp_path)(QUESTIONS[:1])
    slow.set()


@pytest.mark.parametrize(
    ("page", "content_type"),
    [("<html>welcome</html>", "text/html"), ("{}", "application/json"), ("{", "application/json")],
)
def test_a_page_that_is_no_answer_is_an_error(server, settings, tmp_path, page, content_type):
    server.page, server.content_type = page, content_type
    with pytest.raises(OSError, match=r"is no chat completion: does its address end in /v1\?"):
        endpoint(settings(), tmp_path)(QUESTIONS)


def test_a_file_that_is_no_cache_is_named(settings, tmp_path):
    (tmp_path / endpoints.CACHE).write_text("something else" * 100)
    with pytest.raises(OSError, match=r"answers.sqlite cannot keep answers: file is not a database"):
        endpoint(settings(), tmp_path)(QUESTIONS)


def test_the_cache_can_be_read_by_hand(settings, tmp_path):
    endpoint(settings(), tmp_path)(QUESTIONS[:1])
    connection = sqlite3.connect(tmp_path / endpoints.CACHE)
    rows = connection.execute("SELECT model, prompt, text FROM answers").fetchall()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert Counter(rows) == Counter([("m", "which? 5 3", "A"), ("m", "which? 3 5", "B")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": 0}, "parallel must be at least 1"),
        ({"max_retries": -1}, "max_retries must be at least 0, got -1"),
        ({"answer_tokens": 0}, "answer_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"temperature": NAN}, "temperature must be at least 0, got nan"),
        ({"timeout": 0.0}, "timeout must be a number above 0, got 0"),
        ({"prompt_price": -1.0}, "prompt_price must be at least 0, got -1"),
        ({"cap": 5.0}, "cap needs a price: prompt_price or answer_price"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Endpoint("m", **changes)
