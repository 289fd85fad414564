"""Chat templates, which are programs of whoever wrote the checkpoint, rendered in a process with limits.

The process is a fresh Python that knows only jinja2: no fork of one that has devices open, and nothing of the caller's
``__main__`` is imported. It lives as long as the caller, and begins anew after a template that reached a limit.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 5.0  # for one message, which takes a few milliseconds
MEMORY = 2**30  # bytes of address space, where the system can limit it; Python and jinja2 take a tenth
ROWS, CHARACTERS = 256, 2**20  # rows of one message, and characters after which it takes no further row
LEAST, TIMES = 2**16, 8  # a row may become so many characters, and so many more for every one of its messages
PROGRAM = Path(__file__).with_name("jinja_worker.py")
REFUSES = "the chat template refuses the messages"


class Asked(NamedTuple):
    """Messages of "role", "content" and more, and whether they are rendered up to where the next answer begins."""

    messages: list[dict[str, Any]]
    ask: bool


def rendered(template: str, named: dict[str, str], asked: Sequence[Asked]) -> list[str | ValueError]:
    """The text of every row, or why the template refuses it; ``named`` are its global variables.

    Raises:
      ValueError: the template takes longer than ``SECONDS``, or ends its process.
    """
    found = []
    for rows in _parts(asked):
        wanted = [(*row, LEAST + TIMES * _length(row)) for row in rows]
        request = json.dumps([template, named, wanted, SECONDS, MEMORY])
        answers = _renderer(os.getpid()).ask(request.encode() + b"\n")
        found += [ValueError(f"{REFUSES}: {reason}") if text is None else text for text, reason in answers]
    return found


def _parts(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    rows, held = [], 0
    for row in asked:
        rows.append(row)
        held += _length(row)
        if len(rows) == ROWS or held > CHARACTERS:
            yield rows
            rows, held = [], 0
    if rows:
        yield rows


def _length(row: Asked) -> int:
    return sum(len(str(text)) for message in row.messages for text in message.values())


class _Renderer:
    """The other process; threads ask it in turn."""

    def __init__(self):
        self._lock, self._owner, self._process = threading.Lock(), os.getpid(), None
        atexit.register(self.stop)

    def ask(self, request: bytes) -> list[tuple[str | None, str | None]]:
        """A text or a reason for every row of the request; ValueError if it ends before."""
        with self._lock:
            process: Any = self._process if self._process and self._process.poll() is None else self._started()
            began = time.monotonic()
            try:
                answer = _exchanged(process, request)
            except BaseException:  # an interrupt leaves answers in the pipe
                self.stop()
                raise
            if answer.endswith(b"\n"):
                return json.loads(answer)
            seconds = time.monotonic() - began
            self.stop()
        took = f"it takes longer than {SECONDS:g} s" if seconds > SECONDS else "it ends the process that renders it"
        raise ValueError(f"{REFUSES}: {took}; use another template.")

    def _started(self) -> subprocess.Popen:
        self.stop()
        # -P: the files beside the program are not modules; the path, because jinja2 is where this process found it.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            process = subprocess.Popen([sys.executable, "-P", str(PROGRAM)], env=environment, **pipes)
        except OSError as error:
            raise ValueError(f"the process that renders chat templates does not start: {error}.") from error
        self._process = process
        return process

    def stop(self) -> None:
        """End it; a fork of its owner leaves it alone."""
        if self._process is None or self._owner != os.getpid():
            return
        process, self._process = self._process, None
        with contextlib.suppress(OSError), process:  # waits, and closes the pipes, where a request may be left
            process.kill()


def _exchanged(process: Any, request: bytes) -> bytes:
    with contextlib.suppress(OSError):  # it is dead, which its answer shows
        process.stdin.write(request)
        process.stdin.flush()
    return process.stdout.readline()


@cache
def _renderer(process: int) -> _Renderer:
    """One a process: a fork has pipes to the renderer of its parent, and may not use them."""
    del process
    return _Renderer()
