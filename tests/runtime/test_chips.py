"""Published numbers of chips, found by their names and by what JAX calls a device."""

import numpy as np
import pytest

from gvgap_jax.runtime.chips import CHIPS, chip_named, chip_of


def test_chips_by_name():
    assert [chip_named(chip.name.lower().replace(" ", "")) for chip in CHIPS] == list(CHIPS)
    with pytest.raises(ValueError, match=r"no chip 'h10o'; there are TPU v4, .* Did you mean 'H100'"):
        chip_named("h10o")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("TPU7x", "TPU7x"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("cpu", "cpu"),
    ],
)
def test_chips_by_what_jax_calls_a_device(kind, name):
    found = chip_of(kind)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("kind", ["NVIDIA L40S", "TPU v4 lite", "TPU v3", "AMD Instinct MI300X"])
def test_a_device_that_is_not_known(kind):
    assert chip_of(kind) is None


def test_peaks_are_ordered_as_precision_costs():
    for chip in CHIPS:
        assert chip.flops_bfloat16 >= chip.flops_float32 > 0
        assert np.isfinite(chip.bandwidth_bytes_per_s)
        assert 0 < chip.links_bytes_per_s <= chip.bandwidth_bytes_per_s
