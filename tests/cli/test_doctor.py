"""What the doctor says is wrong, and what it leaves alone."""

import fcntl
import os
import socket
import subprocess
import sys

import pytest

from experiments.cli import checks, doctor
from gvgap_jax.runtime import packages
from tests.cli.test_commands import printed_by

HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path, monkeypatch):
    path = tmp_path / "libtpu_lockfile"
    monkeypatch.setattr(checks, "_tpu_locks", lambda: (path, tmp_path / "none"))
    return path


def test_a_held_tpu_is_a_complaint_that_names_the_process(lock, capsys):
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            (sentence,) = checks.of_tpu_locks()
            assert f"held by process {holder.pid} ({sys.executable} -c import fcntl" in sentence
            assert f"kill {holder.pid} " in sentence
            assert sentence in printed_by(capsys, "doctor", "--platform", "tpu", status=1)
            assert sentence not in printed_by(capsys, "doctor", "--platform", "cpu")
        finally:
            holder.kill()
    assert checks.of_tpu_locks() == []


def test_a_lock_that_nobody_holds_is_no_complaint(lock):
    assert checks.of_tpu_locks() == []
    lock.touch()
    assert checks.of_tpu_locks() == []
    with lock.open("w") as own:
        fcntl.lockf(own, fcntl.LOCK_EX)
        assert checks.of_tpu_locks() == []


def test_another_users_lock_is_a_complaint(lock, monkeypatch):
    lock.touch()

    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(checks, "_holder", refuse)
    (sentence,) = checks.of_tpu_locks()
    assert f"another user's (number {os.getuid()})" in sentence
    assert f"sudo rm {lock}" in sentence


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a package for the length of a test: its name, version and what it needs."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in (checks, packages):
        monkeypatch.setattr(module, "PROJECT", "toy")
    monkeypatch.setattr(checks, "DEVICES", {})

    def install(name, version, *needs, extras=()):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Provides-Extra: {extra}" for extra in extras)]
        (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in needs)]) + "\n")

    return install


def test_versions_that_do_not_fit_are_complaints(installed):
    installed("inner", "0.12.8")
    installed("spare", "2.0")
    needs = [
        "inner>=0.12.12",
        "nowhere<3",
        'later>=1; python_version < "3"',
        'spare<2; extra == "more"',
        'absent; extra == "more"',
    ]
    installed("toy", "1.0", *needs, extras=("more",))
    assert checks.of_versions() == [
        'toy 1.0 needs inner>=0.12.12, but 0.12.8 is installed: pip install "inner>=0.12.12".',
        'toy 1.0 needs nowhere<3, but none is installed: pip install "nowhere<3".',
        'toy 1.0 needs spare<2, but 2.0 is installed: pip install "spare<2".',
    ]


def test_versions_here_fit_each_other():
    assert checks.of_versions() == []


def test_extras_are_complete_or_missing(installed, capsys):
    installed("inner", "1.0")
    installed(
        "toy", "1.0", 'inner; extra == "one"', 'inner; extra == "two"', 'absent; extra == "two"', extras=("one", "two")
    )
    assert checks.complete_extras() == ["one"]
    assert checks.of_extras(("one",)) == []
    assert checks.of_extras(("one", "two")) == [
        'The extra two is not installed (absent missing): pip install -e ".[two]".'
    ]
    assert "has no extra 'three', but one, two" in printed_by(capsys, "doctor", "--extras", "three", status=2)


def test_a_port_that_somebody_listens_on_is_a_complaint(capsys):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (sentence,) = checks.of_port(port)
        assert f"Port {port} cannot be listened on here (Address already in use)" in sentence
        assert "--coordinator-port" in printed_by(capsys, "doctor", "--coordinator-port", port, status=1)
    assert checks.of_port(port) == checks.of_port(None) == []
    assert "between 1 and 65535, got 65536" in printed_by(capsys, "doctor", "--coordinator-port", "65536", status=2)


def test_too_little_disk_is_a_complaint(capsys):
    assert "GiB are free here, 1e+09 are wanted" in printed_by(capsys, "doctor", "--disk", "1e9", status=1)
    assert checks.of_disk(0.0) == []


@pytest.mark.parametrize(
    ("driver", "plugin", "said"),
    [
        (
            "575.57.08",
            "jax-cuda13-plugin",
            "575.57.08, but jax-cuda13-plugin needs 580 or newer: update the driver, or pip install",
        ),
        ("580.82.07", "jax-cuda13-plugin", ""),
        ("535.104.05", "jax-cuda12-plugin", ""),
        ("470.82.01", "jax-cuda13-plugin", "needs 580 or newer: update the driver."),
        ("470.82.01", "jax-cuda12-plugin", "470.82.01, but jax-cuda12-plugin needs 525 or newer: update the driver."),
        ("470.82.01", "something else", ""),
    ],
)
def test_an_old_driver_is_a_complaint(tmp_path, monkeypatch, driver, plugin, said):
    told = tmp_path / "version"
    told.write_text(
        f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\nGCC version: 12.3.0\n"
    )
    monkeypatch.setattr(checks, "DRIVER", told)
    monkeypatch.setattr(checks, "_version", lambda name: "1.0" if name == plugin else None)
    sentences = checks.of_driver()
    assert said in "".join(sentences)
    assert bool(said) == bool(sentences)


def test_little_shared_memory_is_a_complaint(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "SHARED_MEMORY", tmp_path / "none")
    assert "has 0 MiB, too little" in checks.of_shared_memory()[0]
    monkeypatch.setattr(checks, "SHARED_MEMORY", tmp_path)
    assert checks.of_shared_memory() == []


def test_a_jax_that_cannot_start_is_a_complaint(monkeypatch, capsys, lock):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': ABORTED: [The TPU]\nis already in use")

    monkeypatch.setattr(doctor.jax, "default_backend", fail)
    printed = printed_by(capsys, "doctor", "--platform", "tpu", status=1)
    assert (
        "jax cannot start: Unable to initialize backend 'tpu': ABORTED: [The TPU] is already in use. On a TPU VM"
        in printed
    )
    assert "Name the --platform" in printed_by(capsys, "doctor", status=1)
