"""A rehearsal of the recipe lists what its run compiles, word for word, for devices that need not be there."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tyro

from experiments.rehearsal.of_recipe import of_recipe
from experiments.tldr.options import options_with
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.targets import Target
from tests.tldr.tiny_tldr import OPTIONS

ROOT = Path(__file__).parents[2]
TARGET = Target("here", chip_named("cpu"), tuple(jax.devices()[:2]))


def listed(*arguments):
    given = [*OPTIONS, *arguments]
    return {each.name: each for each in of_recipe(tyro.cli(options_with(given), args=given), TARGET)}


@pytest.mark.slow
def test_it_is_what_a_whole_run_compiles(tmp_path):
    command = [sys.executable, "-m", "tests.rehearsal.whole_run", str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # Two starts, of a language model and of a reward model; five trainings; five passes.
    assert json.loads(found.stdout.splitlines()[-1]) == {"compiled": 12, "listed": 12, "missing": [], "more": []}


def test_calls_are_those_of_all_seeds():
    one, three = (listed("--seeds", str(seeds), "--steps_a_dispatch", "4") for seeds in (1, 3))
    assert {name: each.calls for name, each in three.items()} == {name: 3 * each.calls for name, each in one.items()}
    # 150 demonstrations in batches of 16 are 10 steps: 2 dispatches of 4, and one of 2.
    assert [(one[f"SFT: {what}"].calls, one[f"SFT: {what}"].rows) for what in ("start", "4 steps", "2 steps")] == [
        (1, 16),
        (2, 64),
        (1, 32),
    ]
    # Two chunks of 32 of 32 online prompts, and one of the 16 evaluation prompts for best of n.
    assert (one["online: 2 responses a prompt, 2 times"].calls, one["online: 2 responses a prompt, 2 times"].rows) == (
        3,
        64,
    )


def test_programs_know_the_axes_of_the_layout_and_the_options_that_change_their_memory():
    found = listed("--layout.fsdp", "2", "--layout.data", "1")
    assert {tuple(each.mesh.shape.items()) for each in found.values()} == {(("data", 1), ("fsdp", 2), ("tensor", 1))}
    assert found["DPO: 1 steps"].options == "--dpo.accumulate, --layout.fsdp, --remat"
    assert found["reference of DPO"].options == "rows are --chunk"
    assert found["online: 2 responses a prompt, 2 times"].options == "rows are --chunk times 2"


def test_a_stage_alone_compiles_its_own():
    assert [*listed("--stage", "rm")] == [
        "reward model: start",
        "reward model: 1 steps",
        "judge: start",
        "judge: 1 steps",
    ]


def test_weights_and_tokenizers_are_not_looked_at(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    names = listed("--model", str(tmp_path), "--labeller", "rouge_l", "--stage", "sft")
    lowered = names["SFT: 1 steps"].lower().as_text()
    assert "tensor<3x32x56xf32>" in lowered  # the hidden units of all layers
    assert "HIGHEST" in lowered


LLAMA = {
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
}


def test_products_of_float32_are_whole_and_of_bfloat16_are_not_asked_for_more():
    whole, half = (listed("--dtype", dtype, "--stage", "dpo")["reference of DPO"] for dtype in ("float32", "bfloat16"))
    assert (whole.lowest, half.lowest) == ("float32", "bfloat16")
    for each, asked in ((whole, "HIGHEST"), (half, "DEFAULT")):
        products = [line for line in each.lower().as_text().splitlines() if "dot_general" in line]
        assert products
        assert all(f"precision = [{asked}, {asked}]" in line for line in products)
