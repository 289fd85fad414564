"""The program of the process that renders chat templates, with a limit on its time and memory: see ``rendering``.

It imports jinja2 and nothing of this project. A line in is the JSON list [template, globals, rows, seconds, bytes], a
row being [messages, ask, most characters]; a line out is a JSON list of [text, why there is none], one a row.
"""

import contextlib
import datetime
import faulthandler
import json
import os
import signal
import sys
from functools import lru_cache

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 200  # characters of a reason
TODAY = (2024, 7, 26)  # whatever the day: the same messages give the same text; templates of Llama 3 name it too


class Generation(Extension):
    """``{% generation %}`` marks what the assistant says, and writes it as it is."""

    tags = {"generation"}  # noqa: RUF012  as jinja2 wants it

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements between the tags."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class Today(jinja2.Undefined):
    """``strftime_now`` for templates that call it without a look; those that look find nothing."""

    def __getattr__(self, name: str):
        raise AttributeError(name)  # jinja2 asks whatever it calls how it wants to be called

    def __call__(self, form: str) -> str:
        """The date in another form."""
        return datetime.date(*TODAY).strftime(form)


def main() -> None:
    """Answer until there are no more lines, or a limit ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides when this ends
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin.buffer:
            template, named, rows, seconds, memory = json.loads(line)
            _limit(memory)
            # A thread of its own that needs no lock of Python's: it ends loops inside of jinja2 and of int alike.
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            answers = json.dumps([_answer(template, named, *row) for row in rows])
            faulthandler.cancel_dump_traceback_later()
            print(answers, flush=True)


def _limit(memory: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has none, macOS refuses some
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _answer(template: str, named: dict, messages: list, ask: bool, most: int) -> tuple[str | None, str | None]:
    try:
        return _rendered(template, named, messages, ask, most), None
    except jinja2.TemplateError as error:
        reason = str(error)
    except MemoryError:
        reason = "it needs too much memory"
    except Exception as error:  # a template may raise what it likes
        reason = f"{type(error).__name__}: {error}"
    return None, " ".join(reason.split())[:LONGEST]


def _rendered(template: str, named: dict, messages: list, ask: bool, most: int) -> str:
    pieces, length = [], 0
    compiled = _compiled(template)
    for piece in compiled.generate(named, messages=messages, add_generation_prompt=ask, tools=None, documents=None):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            raise jinja2.TemplateError(f"it writes more than {most:,} characters")
    text = "".join(pieces)
    text.encode()  # half a character is no text
    return text


@lru_cache(8)
def _compiled(template: str) -> jinja2.Template:
    def raise_exception(message: str):
        raise jinja2.TemplateError(message)

    def to_json(value, ensure_ascii=False, **options):  # jinja2's own escapes for HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": Today(name="strftime_now")}
    return environment.from_string(template)


if __name__ == "__main__":
    main()
