"""What a release hands out: a wheel with the library alone, and a source distribution with all of the repository."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from gvgap_jax.__main__ import WHERE

wheels = pytest.importorskip("hatchling.builders.wheel")
sdists = pytest.importorskip("hatchling.builders.sdist")
ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    (packed,) = sdists.SdistBuilder(str(ROOT)).build(directory=str(folder))
    with tarfile.open(packed) as files:
        files.extractall(folder, filter="data")
    return folder / f"gvgap_jax-{VERSION}"


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, made of the source distribution as an index would have it."""
    (path,) = wheels.WheelBuilder(str(source)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    return Path(path)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel was installed to, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target")
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(folder), str(wheel)], check=True)
    return folder


def tracked(*folders):
    """Files of the repository in some of its folders, as git knows them."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def ran(*arguments, folder, path):
    """A command of this Python in ``folder``, which sees packages of ``path`` before all others."""
    environment = os.environ | {"PYTHONPATH": str(path), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if ".dist-info/" not in name}
    assert wheel.name == f"gvgap_jax-{VERSION}-py3-none-any.whl"
    assert tracked("gvgap_jax") <= names
    assert {name.split("/")[0] for name in names} == {"gvgap_jax"}


def test_the_source_distribution_holds_the_repository(source):
    packed = {path.relative_to(source).as_posix() for path in source.rglob("*")}
    assert tracked(*(path.name for path in ROOT.iterdir() if not path.name.startswith("."))) <= packed


def test_the_installed_library_says_where_theory_and_experiments_are(installed, tmp_path):
    asked = ran("-m", "gvgap_jax", folder=tmp_path, path=installed)
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"{WHERE}\n", "")
    assert ran("-m", "gvgap_jax", "run", folder=tmp_path, path=installed).returncode == 2
    assert {path.name for path in installed.iterdir()} == {"gvgap_jax", f"gvgap_jax-{VERSION}.dist-info"}


def test_the_command_that_it_names_is_one_of_the_source(source):
    told = WHERE.split("&& python ")[1].split("`")[0].split()
    helped = ran(*told, "--help", folder=source, path=source)
    assert helped.returncode == 0, helped.stderr
    assert "theorem" in helped.stdout
