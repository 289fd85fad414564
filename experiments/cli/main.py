"""The command line's dispatch: one command of ``python -m experiments``, each a function of a file beside this one."""

import sys
from collections.abc import Callable

from rich.markup import escape

from experiments.cli.arguments import parsed
from experiments.cli.bench import bench
from experiments.cli.compare import compare
from experiments.cli.doctor import doctor
from experiments.cli.figures import figures
from experiments.cli.folders import compact, status
from experiments.cli.inspect import inspect
from experiments.cli.listing import list_everything
from experiments.cli.predict import answer
from experiments.cli.quickstart import quickstart
from experiments.cli.rehearse import rehearse
from experiments.cli.report import report
from experiments.cli.run import run
from experiments.cli.ship import ship, verify
from experiments.kit.terminal import PROGRAM, console, names, printable
from gvgap_jax.runtime.messages import unknown

COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_everything,
    "run": run,
    "rehearse": rehearse,
    "status": status,
    "figures": figures,
    "report": report,
    "predict": answer,
    "compare": compare,
    "compact": compact,
    "ship": ship,
    "verify": verify,
    "inspect": inspect,
    "doctor": doctor,
    "quickstart": quickstart,
    "bench": bench,
}
WITH_A_NAME = ("run", "rehearse")  # what comes next decides which options there are


def main(arguments: list[str]) -> None:
    """Run one command; bad input ends in one clear line and exit status 2."""
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            docstrings = {name: command.__doc__ or "" for name, command in COMMANDS.items()}
            console.print(names(f"usage: {PROGRAM} COMMAND, or COMMAND --help", docstrings))
            return
        name, *rest = arguments
        if name not in COMMANDS:
            raise ValueError(unknown("command", name, COMMANDS))
        if name in WITH_A_NAME:
            COMMANDS[name](rest)
        else:
            parsed(COMMANDS[name], name, rest)
    except (ValueError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(describe(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def describe(error: Exception) -> str:
    """Its message; of a file that the system refuses its name and the reason, without a number.

    What would move or paint a terminal's text, in a name that a file gave, is spelled out.
    """
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}." if error.filename else error.strerror
    return printable(message)
