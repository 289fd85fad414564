"""Plans on a local Ray cluster and on Slurm's stand-in: the same records, and clear errors instead of silent waits."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.cli import main as command
from gvgap_jax.sweep import engines, folder_at, load, make_plan, open_folder, run_plan
from gvgap_jax.sweep.engines import Ray, Slurm, on_ray, on_slurm
from tests.sweep import toy_experiment as toy

ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def python(*arguments):
    found = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT)
    return found.returncode, " ".join((found.stdout + found.stderr).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    plan, folder = make_plan("toy", toy, toy.GRID), folder_at(tmp_path_factory.mktemp("whole"))
    open_folder(folder, plan)
    run_plan(plan, folder)
    return folder


@pytest.mark.slow("test_ray_finishes_with_the_same_records_when_a_worker_is_killed")
def test_ray_finishes_with_the_same_records_when_a_worker_is_killed(tmp_path, whole):
    status, printed = python("-m", "tests.sweep.ray_cluster", tmp_path)
    assert status == 0, printed
    assert "killed True failed {} computed 63" in printed
    for table in ("odd", "even"):
        assert load(tmp_path, table).equals(load(whole, table))


@pytest.mark.slow("test_ray_computes_an_experiment_from_the_command_line")
def test_ray_computes_an_experiment_from_the_command_line(tmp_path):
    arguments = ["-m", "experiments", "run", "equivalence", "--grid.horizon", "2", "--grid.pairs", "8", "--seeds", "2"]
    status, printed = python(*arguments, "--engine", "ray", "--out", tmp_path / "ray")
    assert status == 0, printed
    command.main([*arguments[2:], "--out", str(tmp_path / "local")])
    assert load(tmp_path / "ray").equals(load(tmp_path / "local"))


@pytest.mark.slow("test_a_signal_lets_ray_finish_its_chunks")
def test_a_signal_lets_ray_finish_its_chunks(tmp_path):
    """Ray's own handler would abort the process."""
    arguments = ["-m", "experiments", "run", "equivalence", "--engine", "ray", "--grid.horizon", "2"]
    process = subprocess.Popen(
        [sys.executable, *arguments, "--seeds", "400", "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    while process.poll() is None and not list(tmp_path.glob("distances-*.parquet")):
        time.sleep(0.01)
    process.terminate()
    printed, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert "Go on with: python -m experiments run equivalence --engine ray" in printed


@pytest.mark.slow("test_a_device_that_the_cluster_lacks_is_an_error_within_seconds")
def test_a_device_that_the_cluster_lacks_is_an_error_within_seconds(tmp_path):
    started = time.perf_counter()
    arguments = ["-m", "experiments", "run", "equivalence", "--engine", "ray", "--ray.tpus", "4", "--out", tmp_path]
    status, printed = python(*arguments)
    assert status == 2
    assert "a Ray task asks for 4 TPU, but no machine of the cluster has more than 0" in printed
    assert "Ask for less (--ray.tpus), or add such a machine." in printed
    assert time.perf_counter() - started < 60


def test_slurm_jobs_are_shards(tmp_path, whole):
    plan, folder = make_plan("toy", toy, toy.GRID), folder_at(tmp_path)
    open_folder(folder, plan)
    report = on_slurm(plan, folder, Slurm(jobs=2, cpus=1, minutes=5), cluster="local")
    assert (report.computed, report.left, report.failed) == (63, 0, {})
    for table in ("odd", "even"):
        assert load(folder, table).equals(load(whole, table))


def test_a_slurm_job_that_dies_is_reported(tmp_path, monkeypatch):
    plan, folder = make_plan("toy", toy, toy.GRID), folder_at(tmp_path)
    open_folder(folder, plan)
    monkeypatch.setattr(engines, "_run_shard", lambda plan, folder, part: 1 / 0)
    report = on_slurm(plan, folder, Slurm(jobs=1, cpus=1, minutes=5), cluster="local")
    assert report.left == 63
    (reason,) = report.failed.values()
    assert "ZeroDivisionError" in reason


def test_slurm_without_slurm_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="there is no sbatch here"):
        on_slurm(make_plan("toy", toy, toy.GRID), folder_at(tmp_path), Slurm())


@pytest.mark.parametrize(
    ("use", "extra"),
    [
        (lambda folder: on_ray(Ray()), "ray"),
        (lambda folder: on_slurm(make_plan("toy", toy, toy.GRID), folder, Slurm()), "slurm"),
    ],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, use, extra):
    monkeypatch.setitem(sys.modules, "submitit" if extra == "slurm" else extra, None)
    with pytest.raises(ValueError, match=rf'is not installed; .*"gvgap_jax\[{extra}\]"'):
        use(folder_at(tmp_path))


@pytest.mark.parametrize("options", [{"cpus": 0}, {"gpus": -1}, {"tpus": -1}])
def test_impossible_ray_tasks_are_refused(options):
    with pytest.raises(ValueError, match="a Ray task needs"):
        Ray(**options)


@pytest.mark.parametrize("options", [{"jobs": 0}, {"minutes": 0}, {"cpus": 0}, {"gpus": -1}])
def test_impossible_slurm_jobs_are_refused(options):
    with pytest.raises(ValueError, match="Slurm needs"):
        Slurm(**options)
