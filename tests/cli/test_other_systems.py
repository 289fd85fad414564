"""The commands on macOS and Windows: what only Linux has is taken away, and they work."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ELSEWHERE = """
import builtins, errno, io, os, signal, sys
import chex, filelock, flax.nnx, jax, matplotlib.pyplot, optax, platformdirs, polars, psutil, tyro, upath  # as on Linux

machine = psutil.virtual_memory()
psutil.virtual_memory = lambda: machine
for name in ("sched_getaffinity", "sysconf", "getuid", "geteuid", "getloadavg", "fork", "killpg", "uname"):
    delattr(os, name)
del signal.SIGKILL
sys.modules |= {"fcntl": None, "resource": None, "pwd": None}

def without(function):
    def called(path, *arguments, **options):
        if str(path).startswith(("/proc", "/dev/shm", "/sys")):
            raise FileNotFoundError(errno.ENOENT, "only on Linux", str(path))
        return function(path, *arguments, **options)
    return called

os.stat, io.open, builtins.open = without(os.stat), without(io.open), without(open)
"""
COMMANDS = """
from experiments.cli.main import main
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.runtime.devices import use_all_cores
from theory.__main__ import main as theory

use_all_cores()
keep_compiled_programs()
main(["list"])
main(["doctor", "--platform", "cpu"])
print("theory:", theory(["--only", "spin"]))
main(["run", "equivalence", "--grid.horizon", "1", "--grid.pairs", "8", "--seeds", "2", "--out", OUT])
main(["figures", "equivalence", "--records", OUT, "--out", OUT])
for command in (["doctor", "--platform", "tpu"], ["bench", "kills"]):
    try:
        main(command)
    except SystemExit as ended:
        print(command[0], "ends with", ended.code)
"""


def test_list_doctor_and_the_first_steps_work_without_what_only_linux_has(tmp_path):
    program = ELSEWHERE + COMMANDS.replace("OUT", repr(str(tmp_path)))
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = " ".join(done.stdout.split())
    assert re.search(rf"cores\W+{os.cpu_count()}\b", printed)
    assert "theory: 0" in printed
    assert "2 cells computed" in printed
    assert list(tmp_path.glob("*.png"))
    assert "wanted tpu, but jax runs on cpu" in printed
    assert "doctor ends with 1" in printed
    assert "bench kills needs SIGKILL, which Windows does not have" in printed
