"""What commands share: one console, one look of tables, names that are nearly right, signals that let work finish."""

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PROGRAM = "python -m experiments"
MEANINGS = {
    "gold": "the reward that labels the pairs and judges the policies; no method sees it.",
    "regret": "KL divergence of a policy from the best policy there is, in nats; 0 is perfect.",
    "J": "expected gold reward less beta times the KL divergence from the reference policy; the best policy has most.",
    "order": "of a reward: how many positions of a response one of its terms looks at together, at most.",
    "d_eff": "effective dimension of a class: with n fitted pairs its regret is about d_eff / (2n), plus its floor.",
    "floor": "the regret that is left with infinitely many pairs, because the class is too small for the gold reward.",
    "R(Π)": "the rewards whose optimal policies are those that DPO chooses from; with them both methods are one.",
}
console = Console()


def table(title: str, *headings: str) -> Table:
    """A table whose first column wraps, and whose others, numbers or a word or two, never do."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column(headings[0], min_width=22)
    for heading in headings[1:]:
        made.add_column(heading, no_wrap=True, justify="right")
    return made


def explain(*texts: str) -> None:
    """Print what the terms mean that stand in the texts, a line each."""
    for term, meaning in MEANINGS.items():
        if re.search(rf"(?<!\w){re.escape(term)}(?!\w)", " ".join(texts)):
            console.print(f"[dim]{term}: {meaning}[/dim]", highlight=False)


def names(title: str, there: Mapping[str, str]) -> Table:
    """A list of names, each with the first sentence of a docstring."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column()
    for name, docstring in there.items():
        made.add_row(name, escape(docstring.strip().split("\n\n")[0]))
    return made


def printable(text: str) -> str:
    """A text in which what would move or paint a terminal's text is spelled out."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


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
    return f"{PROGRAM} {shlex.join(sys.argv[1:])}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown has it; a bar within a cell is no border."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
