"""Commands of ``python -m experiments`` in processes that can be killed, begun quickly one after another."""

import contextlib
import os
import runpy
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.005  # between looks at a folder

_context = get_context("forkserver")  # imports everything once; jax begins to work in each process alone
_context.set_forkserver_preload(["experiments.cli.main"])


class Command(NamedTuple):
    """``python -m experiments run`` with these arguments, its logs and compiled programs under ``root``."""

    arguments: tuple[str, ...]
    root: Path

    def running(self, folder: Path, *options: str, most_bytes: int | None = None):
        """A process that runs into ``folder``, in which no file may have more bytes than that."""
        arguments = ["run", *self.arguments, "--out", str(folder), *options]
        return self._process(arguments, self.log(folder, *options), most_bytes)

    def compacting(self, folder: Path):
        """A process that compacts ``folder``."""
        return self._process(["compact", str(folder)], self.log(folder, "compact"), None)

    @contextlib.contextmanager
    def _process(self, arguments: list[str], log: Path, most_bytes: int | None) -> Iterator[ForkServerProcess]:
        """Leaving the context kills the process if it is still there."""
        process = _context.Process(target=_main, args=(arguments, log, self.root / "compiled", most_bytes))
        log.write_bytes(b"")
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def log(self, folder: Path, *options: str) -> Path:
        """What the last such process printed."""
        return self.root / f"{'-'.join([folder.name, *options]).replace('/', '-')}.log"

    def finish(self, folder: Path, *processes: tuple[str, ...]) -> None:
        """Run into ``folder`` to the end, by one process or by several with these options at once.

        Raises:
          RuntimeError: a process failed; the message names its log.
        """
        with contextlib.ExitStack() as stack:
            options = processes or ((),)
            running = [stack.enter_context(self.running(folder, *each)) for each in options]
            for each, process in zip(options, running, strict=True):
                process.join()
                self.check(process.exitcode, folder, *each)

    def check(self, status: int | None, folder: Path, *options: str) -> None:
        """Raise RuntimeError for an exit status that is not 0."""
        if status:
            raise RuntimeError(f"a run ended with status {status}: see {self.log(folder, *options)}")


def _main(arguments: list[str], log: Path, compiled: Path, most_bytes: int | None) -> None:
    import resource  # Windows has none

    import jax

    written = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(written, number)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # a GPU is shared, too
    }
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    sys.argv[1:] = arguments
    runpy.run_module("experiments", run_name="__main__")
