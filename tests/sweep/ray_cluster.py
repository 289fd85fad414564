"""A local Ray cluster computes the toy plan while one of its worker processes is killed: run as a program.

In a process of its own, because Ray starts threads and forks.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from gvgap_jax.sweep import folder_at, make_plan, open_folder, records, run_plan
from gvgap_jax.sweep.engines import Ray, on_ray
from tests.sweep import toy_experiment as toy


def slow_run(program, cell):
    """The toy's, but the first process that traces it says so and waits to be killed."""
    victim = Path(os.environ["VICTIM"])
    if not victim.exists():
        victim.write_text(str(os.getpid()))
        time.sleep(60)
    return toy.run(program, cell)


def kill(victim: Path) -> None:
    """Kill the process that has named itself."""
    while not victim.exists() or not victim.read_text():
        time.sleep(0.1)
    os.kill(int(victim.read_text()), signal.SIGKILL)


def main(out: str) -> None:
    """Compute the plan into ``out`` and print what became of it."""
    module = SimpleNamespace(MEANING=1, Config=toy.Config, cells=toy.cells, run=slow_run)
    plan, folder = make_plan("toy", module, toy.GRID), folder_at(out)
    open_folder(folder, plan)
    victim = Path(out) / "victim"
    os.environ["VICTIM"] = str(victim)
    threading.Thread(target=kill, args=(victim,), daemon=True).start()
    report = run_plan(plan, folder, engine=on_ray(Ray()))
    makers = {made["process"] for made in records.provenances(folder).values()}
    print("killed", int(victim.read_text()) not in makers, "failed", report.failed, "computed", report.computed)


if __name__ == "__main__":
    main(sys.argv[1])
