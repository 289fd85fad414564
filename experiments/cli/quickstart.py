"""``python -m experiments quickstart``: theorems, one experiment and its figure in two minutes."""

import subprocess
import sys
import time
from pathlib import Path

from experiments.cli import runner
from experiments.cli.figures import draw
from experiments.kit.terminal import console
from experiments.questions import questions


def quickstart(out: Path = Path("results")) -> None:
    """Check the theorems, run one experiment, draw its figure: 2 minutes.

    On 2 cores, with preset quick of sample_complexity.

    Args:
      out: folder of the records and figures.
    """
    started = time.perf_counter()
    checks = subprocess.run([sys.executable, "-m", "theory"], check=False)
    folder = out / "sample_complexity-quick"
    module = questions()["sample_complexity"]
    runner.execute("sample_complexity", module, module.PRESETS["quick"], folder)
    for path in draw("sample_complexity", folder, out / "figures"):
        console.print(f"figure: {path}", soft_wrap=True)
    console.print(f"quickstart took {time.perf_counter() - started:.0f} s")
    if checks.returncode:
        console.print("[red]a theorem check failed: see the table above[/red]")
        sys.exit(checks.returncode)
