"""The evidence of all experiments, gathered by all cores."""

import functools
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

from experiments.kit.backends import BackendName, everywhere, on_backend
from experiments.questions import questions
from experiments.report.evidence import Evidence, gather
from gvgap_jax.runtime.machine import number_of_cores

FEW = 4  # experiments that one process has drawn by the time that another has started


def gather_all(root: str, preset: str | None = None) -> list[Evidence]:
    """The evidence of every experiment on every backend, as ``gather`` finds it under ``root``, in the order of lists.

    Findings are quick and figures are not: they are drawn in a process a core where there are more than ``FEW``.
    """
    wanted: list[tuple[str, BackendName]] = [(name, backend) for name, backend, _ in everywhere(questions())]
    one = functools.partial(_gathered, root, preset)
    workers = min(number_of_cores(), len(wanted) // FEW)
    if workers < 2:
        return [one(each) for each in wanted]
    # A fork would copy locks that threads of jax and polars hold.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _left_to_the_first) as pool:
        return list(pool.map(one, wanted))


def _left_to_the_first() -> None:
    """Ctrl-C reaches every process of a terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _gathered(root: str, preset: str | None, which: tuple[str, BackendName]) -> Evidence:
    name, backend = which
    return gather(name, on_backend(questions(), backend)[name], root, preset, backend)
