"""What commands that run for long share: one console, and signals that let the work at hand finish."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from rich.console import Console

console = Console()


@contextlib.contextmanager
def signals_caught() -> Iterator[list[int]]:
    """The signals that came: the first SIGINT or SIGTERM lets the chunk at hand finish, the second one kills."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]

    def restore():
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

    def catch(number, _frame):
        caught.append(number)
        restore()
        console.print(f"{signal.Signals(number).name}: finishing what is at hand; once more to stop at once.")

    for number in numbers:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def stop(caught: list[int]) -> NoReturn:
    """End the process as the signal asks, naming the command that goes on."""
    console.print(f"Stopped; what is finished is stored. Go on with: {this_command()}", soft_wrap=True)
    sys.exit(128 + caught[0])


def this_command() -> str:
    """The command that was given, to be given again."""
    return f"python -m experiments {shlex.join(sys.argv[1:])}"
