"""The cloud guide and its job files: shell is valid, variables are explained, scripts do what they say."""

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "cloud.md").read_text(encoding="utf-8")
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "cloud").iterdir())}
BLOCKS = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
TABLE = GUIDE.split("## Variables of the environment")[1]


def test_the_job_files_run_the_recipe():
    for text in FILES.values():
        assert "python -m experiments run tldr" in text


def parts_of_the_task():
    return pytest.importorskip("yaml").safe_load(FILES["tldr.sky.yaml"])


def test_all_shell_is_valid():
    task = parts_of_the_task()
    for script in (*BLOCKS, FILES["tpu.sh"], FILES["tldr.slurm"], task["setup"], task["run"]):
        checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert not checked.stderr, script
    assert os.access(ROOT / "cloud" / "tpu.sh", os.X_OK)


def test_the_task_is_one_of_skypilot():
    task = parts_of_the_task()
    assert set(task) == {"name", "workdir", "num_nodes", "resources", "envs", "setup", "run"}
    assert set(task["resources"]) == {"infra", "accelerators", "use_spot", "disk_size", "job_recovery"}
    assert task["resources"]["job_recovery"] == {"recover_on_exit_codes": [143]}
    assert all(value is None or isinstance(value, str) for value in task["envs"].values())
    with contextlib.suppress(ImportError):
        from sky import Task  # pyright: ignore[reportMissingImports]

        assert Task.from_yaml_config(task, env_overrides=[("OUT", "gs://bucket/tldr")]).name == "tldr"


def test_every_variable_is_explained_and_none_is_explained_in_vain():
    explained = {
        name for cell in re.findall(r"^\|([^|]+)\|", TABLE, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    used = {name for text in (*BLOCKS, *FILES.values()) for name in re.findall(r"\$\{?([A-Z_]{2,})", text)}
    assert used - {"HOME", "PATH"} <= explained
    elsewhere = GUIDE.split("## Variables of the environment")[0] + "".join(FILES.values())
    assert [name for name in explained if name not in elsewhere and name != "JAX_COMPILATION_CACHE_DIR"] == []


def test_every_anchor_and_file_that_is_linked_is_there():
    headings = {
        re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", GUIDE, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= headings
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / "guides" / link).exists()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Programs that write down how they are called: how to make one, and what was written."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(name, script="true"):
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/bash\necho "{name} $*" >>{tmp_path / "calls"}\n{script}\n')
        tool.chmod(0o755)

    return make, lambda: (tmp_path / "calls").read_text().splitlines()


def tpu(command, **variables):
    wanted = os.environ | {"ZONE": "z", "OUT": "gs://b/x"} | variables
    return subprocess.run([ROOT / "cloud" / "tpu.sh", command], env=wanted, text=True, capture_output=True)


@pytest.mark.parametrize(
    ("state", "steps"),
    [
        ("echo READY", ["describe", "ssh"]),
        ("echo PREEMPTED", ["describe", "delete", "create", "scp", "scp", "ssh", "ssh"]),
        ("exit 1", ["describe", "create", "scp", "scp", "ssh", "ssh"]),
    ],
)
def test_resume_makes_what_is_missing_and_runs(tools, state, steps):
    make, calls = tools
    make("gcloud", f'case "$4" in describe) {state} ;; ssh) bash -nc "${{8#--command=}}" ;; esac')
    make("git")
    answer = tpu("resume")
    assert answer.returncode == 0, answer.stderr
    done = [line.split() for line in calls() if line.startswith("gcloud compute tpus tpu-vm")]
    assert [words[4] for words in done] == steps
    for words in done:
        assert ("--version=v2-alpha-tpuv6e" in words and "--spot" in words) == ("create" in words)


def test_a_machine_that_is_on_its_way_is_waited_for(tools):
    make, _ = tools
    make("gcloud", "echo CREATING")
    answer = tpu("resume")
    assert (answer.returncode, answer.stdout) == (1, "tldr is CREATING: try again in a minute.\n")


def test_the_run_is_started_once_and_stopped_by_sigterm(tools, tmp_path):
    """What the script sends to the hosts is run here, in a home of its own."""
    make, calls = tools
    make("gcloud", f'[ "$4" = ssh ] && cd {tmp_path} && HOME={tmp_path} bash -c "${{8#--command=}}"')
    make("python")
    (tmp_path / "gvgap_jax" / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "gvgap_jax" / ".venv" / "bin" / "activate").touch()
    (tmp_path / "long").write_text("#!/bin/bash\ntrap 'echo stopped; kill $!; exit 143' TERM\nsleep 30 &\nwait\n")
    assert tpu("run", COMMAND=f"bash {tmp_path / 'long'}").returncode == 0
    assert "It is running." in tpu("run", COMMAND="false").stdout
    process = int((tmp_path / "tldr.pid").read_text())
    assert tpu("stop").returncode == 0
    for _ in range(100):
        if not Path(f"/proc/{process}").exists():
            break
        subprocess.run(["sleep", "0.05"], check=True)
    assert (tmp_path / "tldr.log").read_text() == "stopped\n"
    assert "python -m experiments doctor --platform tpu --extras tldr gcs --coordinator-port 8476" in calls()


def test_what_is_not_named_is_asked_for():
    assert "name the folder of the run" in tpu("run", OUT="").stderr
    answer = tpu("fly")
    assert answer.returncode == 2
    assert "create | install | run | log | resume | stop | delete" in answer.stdout


@pytest.mark.parametrize(("ending", "requeued"), [(143, True), (1, False), (0, False)])
def test_slurm_requeues_what_was_asked_to_stop(tools, tmp_path, ending, requeued):
    make, calls = tools
    make("srun", f'case "$*" in *"run tldr"*) exit {ending} ;; esac')
    make("scontrol")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8", "OUT": "/shared/x"}
    script = ["bash", ROOT / "cloud" / "tldr.slurm"]
    assert subprocess.run(script, cwd=tmp_path, env=os.environ | slurm).returncode == ending
    assert ("scontrol requeue 17" in calls()) == requeued
    assert calls()[1].startswith("srun --cpus-per-task=8 --kill-on-bad-exit=0 python -m experiments run tldr")


@pytest.mark.parametrize(
    ("platform", "nodes", "passed"),
    [
        ("gpu", "2", "--coordinator 10.0.0.1 --coordinator-port 8476 --processes 2 --process 1"),
        ("gpu", "1", ""),
        ("tpu", "2", ""),
    ],
)
def test_gpu_machines_get_the_address_of_the_first(tools, tmp_path, platform, nodes, passed):
    make, calls = tools
    make("python")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    task = parts_of_the_task()
    sky = {"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    variables = os.environ | task["envs"] | {"OUT": "gs://b/x", "PLATFORM": platform} | sky
    assert subprocess.run(["bash", "-c", task["run"]], cwd=tmp_path, env=variables).returncode == 0
    assert calls()[-1].partition("--out gs://b/x")[2].strip() == passed
