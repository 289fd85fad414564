"""Devices of slices that are not there: their names, and what XLA says of them."""

import os
import subprocess
import sys
from importlib import resources

import jax
import pytest

from gvgap_jax.runtime import targets
from gvgap_jax.runtime.chips import chip_named, chip_of
from gvgap_jax.runtime.devices import USABLE, memory_per_device
from gvgap_jax.runtime.packages import is_installed
from gvgap_jax.runtime.targets import here, slices, target

DEVICES = {  # of a slice, by the clouds' pages
    "v4-8": 4,
    "v4-32": 16,
    "v5e-1": 1,
    "v5e-4": 4,
    "v5e-8": 8,
    "v5e-256": 256,
    "v5p-8": 4,
    "v5p-32": 16,
    "v5p-12288": 6144,
    "v6e-16": 16,
    "tpu7x-8": 8,
    "tpu7x-128": 128,
}


@pytest.mark.parametrize("name", DEVICES)
def test_a_tpu_slice_has_as_many_devices_as_published(name):
    pytest.importorskip("libtpu")
    found = target(name)
    assert (found.name, found.platform, len(found.devices)) == (name, "tpu", DEVICES[name])
    assert chip_of(found.devices[0].device_kind) == found.chip
    assert found.memory_bytes == int(USABLE * found.chip.memory_bytes)


def test_eight_chips_of_a_v5e_share_a_host_and_sixteen_do_not():
    pytest.importorskip("libtpu")
    hosts = {name: len({device.process_index for device in target(name).devices}) for name in ("v5e-8", "v5e-16")}
    assert hosts == {"v5e-8": 1, "v5e-16": 4}


@pytest.mark.parametrize("gpu", targets.GPUS)
def test_a_gpu_is_described_by_a_file_of_published_numbers(gpu):
    pytest.importorskip("jax_cuda12_plugin")
    found = target(f"{gpu}x4")
    assert (found.name, found.platform, len(found.devices)) == (f"{gpu}x4", "gpu", 4)
    assert chip_of(found.devices[0].device_kind) == found.chip == chip_named(gpu)


@pytest.mark.parametrize("gpu", targets.GPUS)
def test_a_description_agrees_with_the_table_of_chips_and_names_its_source(gpu):
    text = targets.description(gpu)
    fields = dict(
        line.strip().split(": ", 1) for line in text.splitlines() if line.startswith("  ") and "{" not in line
    )
    chip = chip_named(gpu)
    assert int(fields["memory_bandwidth"]) == chip.bandwidth_bytes_per_s
    assert int(fields["device_memory_size"]) == chip.memory_bytes
    peak = 2 * float(fields["clock_rate_ghz"]) * 1e9 * int(fields["core_count"]) * int(fields["fpus_per_core"])
    assert peak == pytest.approx(chip.flops_float32, rel=0.01)
    assert text.startswith("# NVIDIA")
    assert "whitepaper" in text


def test_every_description_is_listed():
    files = (resources.files("gvgap_jax.runtime") / "gpus").iterdir()
    assert {file.name.removesuffix(".txtpb") for file in files} == set(targets.GPUS)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("V5E 8", "v5e-8"),
        ("v5litepod-16", "v5e-16"),
        ("TPU v5p-32", "v5p-32"),
        ("v7x-8", "tpu7x-8"),
        ("Ironwood-8", "tpu7x-8"),
        ("H100 x 8", "h100x8"),
        ("A100 80GB x4", "a100-80gbx4"),
    ],
)
def test_names_as_people_write_them(written, meant):
    assert targets.parsed(written) == slices()[meant]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e-7", r"^there is no slice 'v5e-7'; of v5e there are v5e-1 v5e-4 v5e-8 .* v5e-256\.$"),
        ("v5p-4", r"of v5p there are v5p-8 .* \(the number counts cores, two a chip\)\.$"),
        ("h100x3", r"of h100 there are h100x1 h100x2 h100x4 h100x8\.$"),
        ("b200x8", r"smaller ones of them: v4-4096, v5e-256, .*, rtx-4090x8\. Did you mean 'h200x8'\?$"),
        ("a100x8", r"Did you mean 'a100-80gbx8'\?$"),
        ("", r"^there is no slice ''; there are"),
    ],
)
def test_a_slice_that_is_not_there(name, words):
    with pytest.raises(ValueError, match=words):
        target(name)


@pytest.mark.parametrize(("name", "package"), [("v5e-8", "libtpu"), ("h100x8", "jax-cuda12-plugin")])
def test_an_extra_that_is_not_installed_is_named(monkeypatch, name, package):
    monkeypatch.setattr(targets, "is_installed", lambda *names: False)
    with pytest.raises(ValueError, match=rf'needs {package}, which is not installed; run: pip install "gvgap_jax\['):
        target(name)


def test_the_devices_that_are_here():
    found = here()
    assert found.devices == tuple(jax.local_devices())
    assert (found.platform, found.chip.name) == ("cpu", "cpu")
    assert found.memory_bytes == pytest.approx(memory_per_device(), abs=1)


USED_BEFORE = """
import jax, jax.numpy as jnp
from gvgap_jax.runtime.targets import target
if {used}:
    jnp.ones(3).sum()
lengths = [len(target(name).devices) for name in {names}]
print(lengths, jax.default_backend(), float(jnp.ones(3).sum()))
"""


@pytest.mark.parametrize("used", [False, True], ids=["imported", "used"])
def test_a_process_that_has_imported_or_used_jax_computes_on_its_cpu(used):
    names = ["v5e-8"] * is_installed("libtpu") + ["h100x8"] * is_installed("jax_cuda12_plugin")
    if not names:
        pytest.skip("no compiler of another device is installed")
    command = [sys.executable, "-c", USED_BEFORE.format(used=used, names=names)]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{[8] * len(names)} cpu 3.0\n", done.stderr
