"""Packages that an extra installs: which one is read from the metadata of the installed project."""

import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gvgap_jax.runtime import packages
from gvgap_jax.runtime.files import read_json
from gvgap_jax.runtime.units import GIB, MIB, readable


def test_a_package_that_is_there_is_imported():
    assert packages.optional("json.decoder").JSONDecoder
    assert packages.is_installed("json", "numpy")
    assert not packages.is_installed("json", "no_such_package")


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("ray", 'pip install "gvgap_jax[ray]"'),
        ("huggingface_hub", 'pip install "gvgap_jax[tldr]"'),
        ("tensorboardX", 'pip install "gvgap_jax[tensorboard]"'),
        ("libtpu", 'pip install "gvgap_jax[rehearse-tpu]"'),
        ("jax-cuda12-plugin", 'pip install "gvgap_jax[rehearse-gpu]"'),
        ("numpy", "pip install numpy"),
        ("no_such_package", "pip install no_such_package"),
    ],
)
def test_the_smallest_extra_with_a_package_is_named(package, command):
    assert packages.command(package) == command


def test_every_package_of_an_extra_is_known():
    needed = [Requirement(line) for line in metadata.requires("gvgap_jax") or () if "extra ==" in line]
    assert {canonicalize_name(each.name) for each in needed} == set().union(*packages.extras().values())


def test_a_package_that_a_module_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "experiments.tldr.toy", raising=False)
    with pytest.raises(ValueError, match=r'^tokenizers is not installed; .* pip install "gvgap_jax\[tldr\]"$'):
        packages.optional("experiments.tldr.toy")


@pytest.mark.parametrize(("content", "words"), [("{", r"no JSON object \(.*damaged"), ("[1]", "but a list")])
def test_a_file_that_is_no_json_object(tmp_path, content, words):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_json(tmp_path / "file")
    (tmp_path / "file").write_text('{"ü": [null]}', encoding="utf-8")
    assert read_json(tmp_path / "file") == {"ü": [None]}


def test_bytes_for_people():
    assert (readable(1.5 * GIB), readable(GIB - MIB)) == ("1.5 GiB", "1,023 MiB")
