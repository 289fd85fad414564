"""Commands in places that are not as they should be: no home, the C locale, a closed pipe, moved folders, odd names."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import main as command
from experiments.kit.terminal import console
from gvgap_jax.runtime import compile_cache, provenance
from gvgap_jax.sweep import load

ROOT = Path(__file__).parents[2]
RUN = ["run", "equivalence", "--grid.horizon", "1", "--grid.pairs", "8", "--seeds", "2"]
ODD = "a folder, größer 名"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
WITHOUT_A_HOME = """
import os, pwd, sys
del os.environ["HOME"]
def unknown(*_):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
from experiments.cli.main import main
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
keep_compiled_programs()
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / ODD
    command.main([*RUN, "--out", str(folder)])
    return folder


def run(*arguments: str, **variables: str) -> str:
    """What a Python process of its own prints; it must end well, and without a traceback."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True)
    printed = (done.stdout + done.stderr).decode("utf-8")
    assert "Traceback" not in printed, printed
    assert done.returncode == 0, printed
    return printed


def test_names_that_the_locale_cannot_show_are_printed_as_escapes(records):
    printed = run("-m", "experiments", "status", str(records), **ASCII, COLUMNS="300")
    assert "a folder, gr\\" in printed
    assert "2 of 2 cells done" in printed


def test_a_user_without_a_home_runs_and_keeps_no_programs(records):
    unset = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    assert "2 of 2 cells done" in run("-c", WITHOUT_A_HOME, "status", str(records), **unset)


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, tmp_path, records):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    out = tmp_path / "out"
    printed = run("-m", "experiments", *RUN, "--out", str(out), XDG_CACHE_HOME=str(tmp_path / "file" / "cache"))
    assert "2 cells computed" in printed


def test_no_home_is_no_cache(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def no_home(_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(compile_cache.platformdirs, "user_cache_dir", no_home)
    compile_cache.keep_compiled_programs()


def test_a_pipe_that_is_closed_ends_a_command_in_silence(records):
    code = f"{sys.executable} -m experiments status '{records}' | true"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(code, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", [20, 200])
def test_a_narrow_and_a_wide_terminal_show_every_number(records, width, capsys, monkeypatch):
    monkeypatch.setattr(console, "_width", width)
    command.main(["status", str(records)])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    assert "2 of 2 cells done" in " ".join(shown.split())


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_folder_that_was_moved_goes_on(records, tmp_path, how, capsys):
    before, there = load(records), tmp_path / "elsewhere"
    own = shutil.copytree(records, tmp_path / "own")
    how(str(own), str(there))
    command.main([*RUN, "--out", str(there)])
    assert "0 cells computed, 2 found done" in " ".join(capsys.readouterr().out.split())
    assert load(there).equals(before)


def test_a_clock_that_was_set_back_changes_nothing(records, tmp_path, monkeypatch, capsys):
    there = shutil.copytree(records, tmp_path / "own")

    class Earlier(provenance.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz).replace(year=1999)

    monkeypatch.setattr(provenance, "datetime", Earlier)
    for path in there.iterdir():
        os.utime(path, (2**32, 2**32))  # written in the future
    command.main([*RUN[:-1], "3", "--out", str(there)])
    assert "1 cells computed, 2 found done" in " ".join(capsys.readouterr().out.split())
    assert len(load(there)) == 3
