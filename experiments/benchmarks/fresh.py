"""Functions called in a process of their own: jax reads its settings once, and memory peaks once."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from gvgap_jax.runtime.messages import reason

Result = TypeVar("Result")
METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"  # the first imports once for all


class Failed(Exception):  # noqa: N818  what became of a call
    """A call gave no result; the message is a sentence that says why."""


def in_fresh_process(variables: dict[str, str], function: Callable[..., Result], *arguments) -> Result:
    """``function(*arguments)`` in a new process that starts with these environment variables."""
    with _environment(variables), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_time(seconds: float, log: Path, function: Callable[..., Result], *arguments, **options) -> Result:
    """``function(*arguments, **options)`` in a process that is killed after so many seconds, and with this one.

    What it prints is added to the file ``log``.

    Raises:
      Failed: it raised an error, was not done in time, or its process died.
    """
    context: Any = get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([function.__module__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, log, function, arguments, options), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(max(seconds, 0)):
            raise Failed(f"it was not done after {seconds:,.0f} s.")
        result, failure = receiver.recv()
    except EOFError:
        process.join()
        raise Failed(f"its process died with status {process.exitcode}.") from None
    finally:
        process.kill()
        process.join()
    if failure:
        raise Failed(failure)
    return result


def _answer(sender: Connection, log: Path, function: Callable, arguments: tuple, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in (1, 2):
        os.dup2(written, number)
    try:
        answer = function(*arguments, **options), ""
    except Exception as error:
        traceback.print_exc()  # into the log
        answer = None, _sentence(error)
    sender.send(answer)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _sentence(error: Exception) -> str:
    message = reason(error)
    words = message if isinstance(error, (ValueError, Failed)) else f"{type(error).__name__}: {message}"
    return f"{words[:200].rstrip('.')}."


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
