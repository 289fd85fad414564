"""Servers that talk too long, too slowly or out of turn, and keys that they and the settings must not give away."""

import base64
import gzip
import html
import json
import logging
import sys
import time
import traceback
from typing import Any
from urllib.parse import quote

import pytest

from gvgap_jax.lm.judges import client, secrets
from gvgap_jax.lm.judges.endpoint import Endpoint, endpoint, spent
from gvgap_jax.lm.judges.verdicts import Question, Template
from tests.lm.served import answer, serving

KEY = "sk-Proj/SECRET+key&123456=="
TEMPLATE = Template("test-1", "{prompt} {first} {second}")
ASKED = [Question("which?", "5", "3")]


def asked(server, folder, **changes):
    address = f"http://127.0.0.1:{server.server_port}/v1"
    settings: dict[str, Any] = {"max_retries": 0, "parallel": 1} | changes
    return endpoint(Endpoint("m", address, "JUDGE_KEY", TEMPLATE, **settings), folder)(ASKED)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)


def in_base64(before, code=base64.b64encode):
    return code(f"{before}{KEY}: and more".encode()).decode()


WRITINGS = {
    "as it is": KEY,
    "in capital letters": KEY.upper(),
    "in small letters": KEY.lower(),
    "behind Bearer": f"Bearer {KEY}",
    "among other letters": f"x{KEY}x",
    "percent-encoded": quote(KEY, safe=""),
    "percent-encoded in small letters": quote(KEY, safe="").lower(),
    "for HTML": html.escape(KEY),
    "with escaped slashes": KEY.replace("/", "\\/"),
    "with slashes that are escaped twice": KEY.replace("/", "\\\\\\/"),
    "in base64": in_base64(""),
    "in base64 behind one letter": in_base64(":"),
    "in base64 behind two letters": in_base64("u:"),
    "in base64 behind Bearer": in_base64("Bearer "),
    "in base64 for addresses": in_base64("user:", base64.urlsafe_b64encode),
    "in hexadecimal": KEY.encode().hex(),
}


def gives_away(text):
    """Whether the inner part of the key can be read in a text; the check shares nothing with what it checks."""
    inner, text = KEY[3:-4], (text + html.unescape(text)).replace("\\", "").lower()
    kept = [inner.lower(), quote(inner, safe="").lower(), inner.encode().hex(), "secret"]
    kept += [base64.b64encode(b"?" * before + KEY.encode())[8:-8].decode().lower() for before in range(3)]
    return [each for each in kept if each in text]


@pytest.mark.parametrize(
    ("writing", "status"),
    [*((each, 500) for each in WRITINGS), *(("as it is", each) for each in (400, 401, 404, 418, 429))],
)
def test_a_key_that_a_server_repeats_is_in_no_message_and_no_file(writing, status, tmp_path, caplog):
    text = WRITINGS[writing]

    def repeat(handler):
        handler.send(
            json.dumps({"error": {"message": f"no: {text}"}}).encode(), status, x_asked=text, x_request_id=text
        )

    caplog.set_level(logging.DEBUG)
    with serving(repeat) as server, pytest.raises((ValueError, OSError)) as failed:
        asked(server, tmp_path)
    everything = "".join(traceback.format_exception(failed.value)) + caplog.text
    everything += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir() if path.is_file())
    assert not gives_away(everything)
    assert gives_away(text), "the check sees this writing"
    assert "httpcore" in caplog.text
    error = failed.value
    while error is not None:
        assert not hasattr(error, "request"), "whose headers have the key"
        error = error.__cause__ or error.__context__


def spelled(text):
    """JSON that is read as the text, and holds none of its letters."""
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_key_in_an_answer_is_not_stored(writing, tmp_path):
    body = answer("PLACE").replace("PLACE", spelled(f"your key is {WRITINGS[writing]}.")).encode()
    with serving(lambda handler: handler.send(body)) as server:
        found = asked(server, tmp_path)
    assert not gives_away(str(found.reasons))
    assert not gives_away("".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir() if path.is_file()))


def test_a_key_is_not_cut_in_half_by_the_length_of_a_message(tmp_path):
    for before in range(150, 200, 7):
        text = json.dumps({"error": {"message": "x" * before + spelled(KEY)}}).replace("\\\\", "\\").encode()
        with serving(lambda handler, text=text: handler.send(text, 500)) as server, pytest.raises(OSError) as failed:  # noqa: PT011
            asked(server, tmp_path)
        assert KEY[:5] not in str(failed.value)


def test_words_that_are_no_keys_stay():
    assert secrets.Redaction("any")("any word will do") == "any word will do"
    assert secrets.Redaction("none")("none of these, nonetheless") == "[key] of these, nonetheless"
    assert secrets.Redaction(KEY)("A\n\nB") == "A\n\nB"


def test_a_redaction_is_quick():
    began = time.monotonic()
    for text in ("sk-Proj" * 2**19, "\\" * 2**22):
        assert secrets.Redaction(KEY)(text) == text
        assert secrets.Redaction(KEY)(f"{text} {KEY}") == f"{text} [key]"
    assert time.monotonic() - began < 20


def dripping(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(300):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def dripping_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(300):
        handler.wfile.write(b"x")
        time.sleep(0.02)


def dripping_chunks(handler):
    handler.send_response(500)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(300):
        handler.wfile.write(b"1\r\nx\r\n")
        time.sleep(0.02)


def again_and_again(handler):
    for _ in range(300):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


@pytest.mark.parametrize("rule", [dripping, dripping_headers, dripping_chunks, again_and_again])
def test_a_server_that_drips_is_given_up(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "LEAST", 0.1)
    began = time.monotonic()
    with (
        serving(rule) as server,
        pytest.raises(OSError, match=r"has not ended its answer after 0\.3 s.*All answers so far are kept"),
    ):
        asked(server, tmp_path, timeout=0.2, max_retries=6)
    assert time.monotonic() - began < 8
    assert len(server.seen) == 1, "what begins an answer is not asked again"


BOMB = gzip.compress(bytes(2**28), 1)

LONG = {
    "five megabytes": (answer("A" * 5 * 2**20).encode(), {}, "answers with more than 4 MiB"),
    "five megabytes of an error": (b"x" * 5 * 2**20, {"status": 500}, "answers with more than 4 MiB"),
    "a compressed gigabyte": (BOMB * 4, {"Content_Encoding": "gzip"}, "answers with more than 4 MiB"),
    "a compressed gigabyte of an error": (
        BOMB,
        {"Content_Encoding": "GZIP", "status": 400},
        "answers with more than 4 MiB",
    ),
    "a compression inside of another": (gzip.compress(b"x"), {"Content_Encoding": "gzip, gzip"}, "not asked for"),
    "another compression": (b"x", {"Content_Encoding": "br"}, "not asked for; it may be none, or gzip"),
    "a compression that is none": (answer().encode(), {"Content_Encoding": "gzip"}, "damaged compression"),
    "a compression that is cut short": (
        gzip.compress(b"x" * 9999)[:-9],
        {"Content_Encoding": "gzip"},
        "damaged compression",
    ),
}


@pytest.mark.parametrize("what", LONG)
def test_an_answer_that_is_too_long_or_cannot_be_unpacked_is_named(what, tmp_path):
    body, how, words = LONG[what]
    with serving(lambda handler: handler.send(body, **how)) as server, pytest.raises(OSError, match=words):
        asked(server, tmp_path, max_retries=3)
    assert len(server.seen) == 1


def test_a_bomb_takes_little_memory(tmp_path):
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        serving(lambda handler: handler.send(BOMB * 2, Content_Encoding="gzip")) as server,
        pytest.raises(OSError, match="4 MiB"),
    ):
        asked(server, tmp_path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 2**26


def test_a_compressed_answer_is_read(tmp_path):
    body = gzip.compress(answer("B").encode())
    with serving(lambda handler: handler.send(body, Content_Encoding="gzip")) as server:
        assert asked(server, tmp_path).wins == [0.5]  # the last in both orders
    assert server.seen[0]["accept-encoding"] == "gzip"


ODD = {
    "a number": "3",
    "a list": "[]",
    "text": "no JSON",
    "nothing": "",
    "a list inside of lists": "[" * 100_000,
    "choices that are a number": answer(choices=3),
    "choices that are an object": answer(choices={"0": 1}),
    "a number of 5,000 digits": answer(created="N").replace('"N"', "9" * 5000),
}


@pytest.mark.parametrize("what", ODD)
def test_an_answer_of_another_kind_is_named(what, tmp_path):
    with (
        serving(lambda handler: handler.send(ODD[what].encode())) as server,
        pytest.raises(OSError, match=r"is no chat completion: does its address end in /v1\?"),
    ):
        asked(server, tmp_path)


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": -5}, {"prompt_tokens": 10**30}, {"prompt_tokens": "5"}, {"prompt_tokens": True}, {}, 3, "x"],
)
def test_tokens_that_cannot_be_are_estimated(usage, tmp_path):
    usage = usage | {"completion_tokens": 1} if isinstance(usage, dict) else usage
    with serving(lambda handler: handler.send(answer(usage=usage).encode())) as server:
        asked(server, tmp_path, prompt_price=1.0)
        settings = Endpoint("m", f"http://127.0.0.1:{server.server_port}/v1", prompt_price=1.0)
        assert spent(settings, tmp_path)[:3] == (2, 6, 2)


def test_half_a_character_can_be_stored(tmp_path):
    with serving(lambda handler: handler.send(answer("\ud800\nA").encode())) as server:
        assert asked(server, tmp_path).wins == [0.5]


def test_a_redirect_is_named_and_no_key_sent_there(tmp_path):
    with serving(lambda handler: handler.send(answer().encode())) as other:
        there = f"http://127.0.0.1:{other.server_port}/v1?{KEY}"
        for status in (301, 302, 303, 307, 308):
            with (
                serving(lambda handler, status=status: handler.send(b"", status, Location=there)) as server,
                pytest.raises(ValueError, match=rf"redirects to http://127.0.0.1:{other.server_port}/v1, where no key"),
            ):
                asked(server, tmp_path)
        assert not other.seen


def test_a_proxy_is_not_told_what_this_machine_says_to_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with serving(lambda handler: handler.send(answer().encode())) as server:
        assert asked(server, tmp_path).wins == [0.5]


ADDRESSES = {
    "a password": ("https://user:sk-SECRET@host/v1", "holds a user"),
    "a user": ("https://sk-SECRET@host/v1", "holds a user"),
    "an empty user": ("https://@host/v1", "holds a user"),
    "a query": ("https://host/v1?api_key=sk-SECRET", "holds a user, a password, a query"),
    "a fragment": ("https://host/v1#sk-SECRET", "or a fragment"),
    "another machine": (
        "http://host/v1",
        "would send the key unencrypted to another machine: use https, or say plain_h",
    ),
    "another machine by number": ("http://10.0.0.5:8000/v1", "unencrypted to another machine"),
    "a name that begins like this machine's": ("http://127.0.0.1.example.org/v1", "unencrypted to another machine"),
    "a name that ends like this machine's": ("http://notlocalhost/v1", "unencrypted to another machine"),
    "every machine": ("http://0.0.0.0/v1", "unencrypted to another machine"),
    "no scheme": ("host/v1", "is no address of a server"),
    "a file": ("file:///etc/passwd", "is no address of a server"),
    "no host": ("https:///v1", "is no address of a server"),
    "a blank": ("https://ho st/v1", "is no address of a server"),
    "a line": ("https://host/v1\nX: y", "is no address of a server"),
    "a port that is none": ("https://host:99999/v1", "is no address"),
    "half an address of IPv6": ("https://[::1/v1", "is no address"),
    "nothing": ("", "is no address of a server"),
}


@pytest.mark.parametrize("what", ADDRESSES)
def test_an_address_that_gives_a_key_away_is_refused(what):
    address, words = ADDRESSES[what]
    with pytest.raises(ValueError, match=words) as refused:
        Endpoint("m", address)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    "address", ["http://localhost:8000/v1", "http://127.1.2.3/v1", "http://[::1]:8000/v1", "https://host/v1"]
)
def test_an_address_of_this_machine_may_be_plain(address):
    assert Endpoint("m", address).base_url == address


def test_another_machine_may_be_asked_in_plain_on_request():
    assert Endpoint("m", "http://10.0.0.5:8000/v1", plain_http=True).plain_http


@pytest.mark.parametrize("name", ["sk-SECRET-1", "", "A B", "1A", "A=B", "$KEY"])
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_repeated(name):
    with pytest.raises(ValueError, match="key_variable is no name of an environment variable") as refused:
        Endpoint("m", key_variable=name)
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("key", ["sk-SECRET\nX-Other: 1", "sk SECRET", "sk-SECRET-é", "sk-SECRET-\x07"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(key, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", key)
    with (
        serving(lambda handler: handler.send(answer().encode())) as server,
        pytest.raises(ValueError, match="the key in JUDGE_KEY has blanks or letters that no key has") as refused,
    ):
        asked(server, tmp_path)
    assert "SECRET" not in str(refused.value)


def test_a_key_in_the_path_of_the_address_is_refused(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-SECRET-123")
    with pytest.raises(ValueError, match="base_url holds the key in JUDGE_KEY") as refused:
        Endpoint("m", "https://host/sk-SECRET-123/v1", "JUDGE_KEY")
    assert "SECRET" not in str(refused.value)
