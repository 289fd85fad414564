"""Where a program does not fit, another setting is proposed, and the compiler has the last word."""

from itertools import islice

import jax
import pytest
import tyro

from experiments.rehearsal.nearest import _larger, nearest, proposals
from experiments.rehearsal.of_recipe import of_recipe
from experiments.tldr import plan
from experiments.tldr.options import options_with
from gvgap_jax.runtime import targets
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.devices import USABLE, memory_needed
from gvgap_jax.runtime.targets import Target
from gvgap_jax.runtime.units import MIB
from tests.tldr.tiny_tldr import OPTIONS


def options_of(*arguments):
    given = [*OPTIONS, *arguments]
    return tyro.cli(options_with(given), args=given)


def of_two(megabytes, name="v5e-2"):
    """Two devices with so many megabytes that programs may use."""
    chip = chip_named("v5e")._replace(memory_bytes=int(megabytes * MIB / USABLE))
    return Target(name, chip, tuple(jax.devices()[:2]))


def test_what_is_proposed_changes_the_options_of_the_run():
    first, second = islice(proposals(options_of("--stage", "dpo"), of_two(10), "DPO: 1 steps"), 2)
    assert first.settings == "--dpo.accumulate 8"
    assert second.settings.endswith("--remat")
    assert (first.options.recipe.dpo.accumulate, first.options.recipe.sft.accumulate) == (8, 1)
    assert [each.name for each in first.programs] == ["DPO: start", "DPO: 1 steps"]
    assert "tensor<8x2x" in first.programs[1].lower().as_text()  # eight parts of two pairs
    assert plan.sizes_of(first.options, 2) == {"data": 2, "fsdp": 1, "tensor": 1}


def test_what_is_scored_is_proposed_in_smaller_chunks():
    found = next(proposals(options_of("--stage", "online"), of_two(4), "online: 2 responses a prompt, 2 times"))
    assert found.settings == "--chunk 8"
    assert found.options.recipe.chunk == 8
    assert found.programs[0].rows == 16


def test_what_the_compiler_refused_is_not_proposed_again_though_arithmetic_finds_room_for_it():
    found = next(proposals(options_of("--stage", "dpo"), of_two(100_000), "DPO: 1 steps"))
    assert found.settings == "--dpo.accumulate 2"


@pytest.fixture
def described(monkeypatch):
    """Slices of two devices, of H100 that hold a few megabytes, without their compiler."""
    chip = chip_named("H100")._replace(memory_bytes=int(2.5 * MIB / USABLE))
    monkeypatch.setattr(targets, "target", lambda name: Target(name, chip, tuple(jax.devices()[:2])))
    return chip


def test_a_slice_of_more_devices_is_proposed_where_no_setting_is_enough(described):
    one = Target("h100x1", described, tuple(jax.devices()[:1]))
    found = next(proposals(options_of("--stage", "dpo"), one, "DPO: start"))
    assert found.settings.endswith(" --layout.data 1 --layout.fsdp 2 --layout.tensor 1 --slice h100x2")
    assert found.target.name == "h100x2"
    assert {each.mesh.size for each in found.programs} == {2}


@pytest.mark.parametrize(("name", "times", "larger"), [("h100x2", 4, "h100x8"), ("v5p-16", 2, "v5p-32")])
def test_a_larger_slice_is_of_the_same_kind(described, name, times, larger):
    assert _larger(Target(name, described, ()), times).name == larger


@pytest.mark.parametrize(("name", "times"), [("h100x8", 2), ("v5e-1", 2)])
def test_no_slice_is_as_large(described, name, times):
    with pytest.raises(ValueError, match=r"no slice of (h100|v5e) has (16|2)$"):
        _larger(Target(name, described, ()), times)


def test_the_compiler_has_the_last_word():
    options, asked = options_of("--stage", "dpo"), []

    def fits(program, target):
        needed = memory_needed(program.lower().compile())
        asked.append(needed)
        return needed <= target.memory_bytes

    (whole,) = (each for each in of_recipe(options, of_two(1)) if each.name == "DPO: 1 steps")
    most = memory_needed(whole.lower().compile()) / MIB
    found = nearest(options, of_two(0.9 * most), "DPO: 1 steps", fits)
    assert found is not None
    assert asked[-1] <= 0.9 * most * MIB
    refused = []
    second = nearest(
        options, of_two(10), "DPO: 1 steps", lambda program, _: len(refused) > 0 or refused.append(program)
    )
    assert [each.name for each in refused] == ["DPO: start"]
    assert second.settings != next(proposals(options, of_two(10), "DPO: 1 steps")).settings
    assert nearest(options, of_two(1), "DPO: 1 steps", fits) is None
