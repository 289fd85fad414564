"""Chat templates of others: whatever they do ends in one sentence, soon and in little memory."""

import dataclasses
import os
import subprocess
import sys
import threading
import time

import pytest

from gvgap_jax.lm.data import encode, rendering
from gvgap_jax.lm.data.formats import CHAT
from gvgap_jax.lm.data.rendering import Asked
from gvgap_jax.lm.data.rows import Demonstration
from gvgap_jax.lm.data.tokenizer import open_tokenizer
from tests.lm.tiny_tokenizer import CHATML, write_tokenizer

TALK = [{"role": "user", "content": "How do I bake bread?"}]
REFUSED = {
    "a division by zero": ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
    "an index that is not there": ("{{ 'a'.index('b') }}", "ValueError: substring not found"),
    "a key that is not there": ("{{ {}['a'] }}{{ {}['a'].b }}", "'dict object' has no attribute 'a'"),
    "a function that is not there": ("{{ random_number() }}", "'random_number' is undefined"),
    "an attribute of the date": ("{{ strftime_now.im_func.a }}", "is undefined"),
    "a filter that is not there": ("{{ 1 | shout }}", "No filter named 'shout'"),
    "a macro that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    "parentheses without end": ("{{ " + "(" * 9_000 + "1" + ")" * 9_000 + " }}", ""),
    "a list inside of lists": ("{{ " + "[" * 300 + "]" * 300 + " }}", ""),
    "a range of a hundred million": ("{% for a in range(99999999) %}{% endfor %}", "OverflowError: Range too big"),
    "three billion letters": ("{{ 'a' * 3000000000 }}", "it needs too much memory"),
    "three billion letters of a role": ("{{ messages[0]['role'] * 3000000000 }}", "it needs too much memory"),
    "three billion blanks": ("{{ 'a' | center(3000000000) }}", "it needs too much memory"),
    "three billion blanks of a format": ("{{ '%3000000000d' % 1 }}", ""),
    "a text that doubles": (
        "{% set n = namespace(t='a') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "it needs too much memory",
    ),
    "a list of a hundred billion": ("{{ [0] * 100000000000 }}", "it needs too much memory"),
    "a text without end": ("{% for a in range(90000) %}lots of text{% endfor %}", "it writes more than 65,728 char"),
    "a piece of text that is too long": ("{{ 'a' * 99999 }}", "it writes more than 65,728 characters"),
    "half a character": ("{{ '\\ud800' }}", "surrogates not allowed"),
    "an attribute of Python's": ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
    "globals of a function": ("{{ raise_exception.__globals__.os }}", "access to attribute '__globals__'"),
    "a format that reads attributes": ("{{ '{0.__class__.__mro__}'.format(1) }}", "access to attribute '__class__'"),
    "messages that it changes": ("{{ messages.append(1) }}", "access to attribute 'append'"),
    "a file that it includes": ("{% include '/etc/passwd' %}", "no loader for this environment"),
    "a file that it imports": ("{% import 'os' as os %}", "no loader for this environment"),
    "a text plus a number": ("{{ 'a' + 1 }}", "TypeError: can only concatenate str"),
    "a loop without end tag": ("{% for a in messages %}", "Unexpected end of template"),
    "a number with too many digits": ("{{ 10 ** 5000 }}", "ValueError: Exceeds the limit"),
    "a long reason": ("{{ raise_exception('no ' * 9999) }}", "no no no"),
    "a reason of two lines": ("{{ raise_exception('no\n\nreally') }}", "no really"),
}
ENDLESS = {
    "two loops of 90,000": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "a power while it is compiled": "{{ 9 ** (9 ** 9) }}",
    "a power of what is only known later": "{{ (8 + messages | length) ** (9 ** 9) }}",
    "words split again and again": "{% for a in range(90000) %}{% set b = ('a ' * 99999).split() %}{% endfor %}",
}


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return open_tokenizer(write_tokenizer(tmp_path_factory.mktemp("chat"), CHATML))


def written(chat, template, *asked):
    return dataclasses.replace(chat, chat_template=template).render_batch(asked or [Asked(TALK, True)])


@pytest.mark.parametrize("what", REFUSED)
def test_a_template_that_fails_refuses_in_one_short_sentence(chat, what):
    template, reason = REFUSED[what]
    with pytest.raises(ValueError, match=r"^the chat template refuses the messages: ") as refused:
        dataclasses.replace(chat, chat_template=template).render(TALK, ask=True)
    said = str(refused.value)
    assert reason in said
    assert "\n" not in said
    assert len(said) < 300


def test_a_date_is_the_same_on_every_day_and_not_there_for_those_that_look(chat):
    (text,) = written(chat, "{{ strftime_now('%d %B %Y') }}{{ strftime_now is defined }}{{ 'x' if strftime_now }}")
    assert text == "26 July 2024False"


MARKED = {
    "a text": ("a{% generation %}b {{ 1 + 1 }}{% endgeneration %}c", "ab 2c"),
    "blanks that are cut": ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
    "in a loop": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        TALK[0]["content"],
    ),
    "a name of its own": ("{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}", "21"),
    "a loop that goes on": ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
}


@pytest.mark.parametrize("what", MARKED)
def test_what_the_assistant_says_is_marked_and_written_as_it_is(chat, what):
    template, text = MARKED[what]
    assert written(chat, template) == [text]


def test_the_peer_library_marks_the_same():
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    pytest.importorskip("torch")
    for template, text in MARKED.values():
        assert utilities.render_jinja_template([TALK], chat_template=template)[0] == [text]


@pytest.mark.parametrize("what", ENDLESS)
def test_a_template_that_never_ends_is_ended_and_the_next_one_is_rendered(chat, what, monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"refuses the messages: it takes longer than 0\.2 s; use another template"):
        dataclasses.replace(chat, chat_template=ENDLESS[what]).render(TALK, ask=True)
    assert time.monotonic() - began < 5
    monkeypatch.undo()
    assert written(chat, "{{ messages[0].role }}") == ["user"]


def test_rows_that_are_refused_leave_the_others(chat):
    template = (
        "{{ raise_exception('no') if messages[0].content == 'b' else messages[0].content ~ add_generation_prompt }}"
    )
    rows = [Asked([{"role": "user", "content": text}], ask) for text in "abc" * 300 for ask in (True, False)]
    found = written(chat, template, *rows)
    wanted = [str(row.messages[0]["content"]) + str(row.ask) for row in rows]
    assert [text for text in found if isinstance(text, str)] == [text for text in wanted if text[0] != "b"]
    assert {str(each) for each in found if isinstance(each, ValueError)} == {f"{rendering.REFUSES}: no"}
    assert [isinstance(each, ValueError) for each in found] == [text[0] == "b" for text in wanted]


def test_a_row_may_become_longer_than_its_messages_and_no_template_is_kept_from_long_ones(chat):
    long = [Asked([{"role": "user", "content": "é" * 300_000}], True)] * 5
    texts = written(chat, "{{ messages | tojson(ensure_ascii=true) }}", *long)
    assert [len(text) for text in texts] == [300_000 * 6 + 33] * 5


def test_a_process_that_was_killed_is_started_again(chat):
    assert written(chat, "a") == ["a"]
    process = rendering._renderer(os.getpid())._process
    assert process is not None
    process.kill()
    process.wait()
    assert written(chat, "b") == ["b"]


def test_threads_get_their_own_answers(chat):
    found = {}

    def ask(name):
        found[name] = written(chat, name, *[Asked(TALK, True)] * 500)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [name] * 500 for name in "abcd"}


CALLER = """
import jax; jax.numpy.zeros(1)
from gvgap_jax.lm.data.rendering import Asked, rendered
print(rendered("{{ messages[0].role }}", {}, [Asked([{"role": "user"}], True)]))
"""


def test_a_program_without_a_main_guard_that_has_devices_open_renders_and_ends(tmp_path):
    """As a notebook does; nothing of the caller is imported or run again."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CALLER], env=environment, cwd=tmp_path, capture_output=True, timeout=60
    )
    assert (done.stdout.decode(), done.stderr.decode(), done.returncode) == ("['user']\n", "", 0)


def test_a_template_that_never_ends_ends_the_encoding_of_all_rows_once(chat, monkeypatch):
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    endless = dataclasses.replace(chat, chat_template=ENDLESS["two loops of 90,000"])
    rows = [Demonstration(TALK, str(number)) for number in range(1000)]
    began = time.monotonic()
    with pytest.raises(ValueError, match="the chat template refuses the messages: it takes longer"):
        encode.demonstrations(rows, endless, CHAT)
    assert time.monotonic() - began < 5
