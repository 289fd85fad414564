"""The guide to an experiment of one's own, followed command by command in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/experiment.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
TINY = "python -m experiments run label_noise --preset tiny"
PARTS = ("docs", "experiments", "gvgap_jax", "tests", "theory")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, without what was made in it."""
    copy = tmp_path_factory.mktemp("project")
    made = shutil.ignore_patterns("__pycache__", "_build", "results")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, ignore=made)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def printed(commands, project):
    """What commands print in a shell at the project's root, in one line."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"COLUMNS": "300", "JAX_PLATFORMS": "cpu", "PYTEST_ADDOPTS": "-n 0 -p no:cacheprovider"}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_the_guide_adds_an_experiment_with_one_file(project):
    add, run, test, report = STEPS
    before = {path for path in (project / "experiments").rglob("*.py")}
    listed = printed(add, project)
    assert {path for path in (project / "experiments").rglob("*.py")} - before == {
        project / "experiments/questions/label_noise.py"
    }
    assert listed.index(" equivalence ") < listed.index(" label_noise ")
    assert TINY in run
    first = printed(run, project)
    assert "4 cells computed, 0 found done" in first
    assert "results/figures/label_noise.png" in first
    assert (project / "results/figures/label_noise.png").stat().st_size > 5000
    assert "0 cells computed, 4 found done" in printed(TINY, project)
    assert re.search(r"\b[12]\d passed", printed(test, project))
    printed(report, project)
    page = (project / "results/report.html").read_text(encoding="utf-8")
    assert "Do noisier labels widen the gap?" in page
    assert "with the noisiest labels less with the clearest" in page
