"""Memory, FLOPs and hours of a run: against compiled programs, published numbers and plain arithmetic."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from gvgap_jax.lm.budget import flops, memory
from gvgap_jax.lm.budget.work import (
    Work,
    cache_bytes,
    gathered_bytes,
    logits_bytes,
    next_bytes,
    parameter_bytes,
    passed_bytes,
    saved_bytes,
)
from gvgap_jax.lm.model import classes, transformer
from gvgap_jax.lm.model.pythia import SIZES, pythia
from gvgap_jax.lm.model.shape import llama, neox
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.devices import USABLE
from gvgap_jax.runtime.units import GIB

PUBLISHED = {  # the model cards' numbers of all parameters
    "70m": 70_426_624,
    "160m": 162_322_944,
    "410m": 405_334_016,
    "1b": 1_011_781_632,
    "1.4b": 1_414_647_808,
    "2.8b": 2_775_208_960,
    "6.9b": 6_857_302_016,
}


def tldr(size="1b", kind="dpo", rows=128, **changes):
    return Work(pythia(size), kind, rows, 512, 53, **changes)


@pytest.mark.parametrize("size", SIZES)
def test_pythia_has_as_many_parameters_as_published(size):
    shape = pythia(size)
    assert transformer.num_parameters(shape, shape.vocabulary) == PUBLISHED[size]
    assert parameter_bytes(tldr(size, "sft")) == 4 * PUBLISHED[size]


def test_a_pythia_that_is_not_there():
    with pytest.raises(ValueError, match=r"no Pythia of size '3b'; there are 70m, .*6\.9b"):
        pythia("3b")


def residuals(shape, rows, length):
    """Every array with tokens that the backward pass of the blocks is handed by the forward pass."""
    params = jax.eval_shape(lambda: transformer.init(shape, 1, jax.random.key(0)))
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    backward = jax.eval_shape(
        lambda params, tokens: jax.vjp(lambda params: transformer.forward(shape, params, tokens)[0], params)[1],
        params,
        tokens,
    )
    return [leaf for leaf in jax.tree.leaves(backward) if length in leaf.shape]


def bytes_of(leaves):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [neox, llama])
def test_what_blocks_save_is_what_differentiation_keeps(kind, dtype):
    shape = kind(101, 9, 64, 4, key_value_heads=2, start=False, dtype=dtype)
    found = sum(saved_bytes(Work(shape, "reward_model", 3, 170, 23)))
    # Beside the blocks there are the last norm and positions, and in them sums of softmaxes and norms.
    assert found == pytest.approx(bytes_of(residuals(shape, 6, 193)), rel=0.04)


GEMMA = {"norm": "rms_plus_one", "order": "both", "activation": "gelu_tanh", "scaled_embedding": True}
OTHER = {
    "qwen 3": (llama, {"head_norm": "each"}),
    "olmo 2": (llama, {"head_norm": "whole", "order": "after"}),
    "mistral": (llama, {"window": 5, "windowed": tuple(range(9))}),
    "gemma 2": (llama, GEMMA | {"score_cap": 2.0, "window": 5, "windowed": (0, 2, 4, 6, 8)}),
    "gemma 3": (llama, GEMMA | {"head_norm": "each", "window": 5, "windowed": (0, 1), "window_rotary_base": 10.0}),
    "smollm 3": (llama, {"unrotated": (3, 7)}),
    "relu": (llama, {"activation": "relu"}),
    "gpt 2": (neox, {"parallel": False, "rotary": 0.0, "activation": "gelu_tanh", "positions": 256}),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", OTHER)
def test_what_blocks_of_other_families_save(family, dtype):
    kind, changes = OTHER[family]
    shape = kind(101, 9, 64, 4, key_value_heads=2, start=False, dtype=dtype, **changes)
    found = sum(saved_bytes(Work(shape, "reward_model", 3, 170, 23)))
    assert found == pytest.approx(bytes_of(residuals(shape, 6, 193)), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_that_are_recomputed_save_their_input(dtype):
    shape = neox(101, 9, 64, 4, start=False, dtype=dtype, remat=True)
    stacked = [leaf for leaf in residuals(shape, 6, 193) if leaf.shape[0] == shape.layers]
    assert sum(saved_bytes(Work(shape, "reward_model", 3, 170, 23))) == bytes_of(stacked)


def test_a_state_is_four_numbers_a_parameter_and_splits():
    whole = memory.training(tldr("70m"))
    split = memory.training(tldr("70m", fsdp=4))
    assert whole.parameters == 4 * PUBLISHED["70m"]
    assert whole.moments == 2 * whole.parameters
    assert split.parameters == whole.parameters / 4
    assert memory.training(tldr("70m", keeps_best=True)).best == whole.parameters
    assert memory.training(tldr("70m", stored_rows=1000)).data == 1000 * 4 * (512 + 2 * 53 + 2)
    assert memory.training(tldr("70m", stored_rows=1001, fsdp=4)).data == 251 * 4 * (512 + 2 * 53 + 2)
    assert sum(size for _, size in memory.rows(whole)[:-1]) == pytest.approx(whole.total)


def test_less_memory_at_a_time_for_parts_recomputing_and_splits():
    work = tldr("410m", rows=64)
    total = memory.training(work).total
    assert memory.training(replace(work, accumulate=8)).total < total / 3
    assert memory.training(replace(work, shape=replace(work.shape, remat=True))).total < total / 3
    assert memory.training(replace(work, data=8)).total < total / 3
    assert memory.scoring(work).total < memory.training(work).total


def test_heads_have_their_published_widths():
    """They change no number of parameters."""
    widths = {"70m": 64, "160m": 64, "410m": 64, "1b": 256, "1.4b": 128, "2.8b": 80, "6.9b": 128}
    assert {size: pythia(size).head_width for size in SIZES} == widths


def test_a_response_costs_its_prompt_once_and_then_a_token_at_a_time():
    shape = replace(pythia("70m"), layers=1)

    def token(seen):
        return 2 * (shape.width * (4 * shape.width + 2 * shape.hidden) + 2 * seen * shape.width)

    head = 2 * shape.width * shape.vocabulary
    wanted = 3 * (5 * token(5) + token(6) + token(7) + token(8) + 4 * head)
    assert flops.generation_flops(Work(shape, "sft", rows=3, prompt_tokens=5, response_tokens=4)) == wanted


def test_the_cache_holds_keys_and_values_of_every_token_but_the_last():
    shape = pythia("1b")
    cache = jax.eval_shape(lambda: transformer.empty_cache(shape, 8, 512 + 53 - 1))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in (cache.key, cache.value))
    assert cache_bytes(tldr(rows=8)) == (whole, whole)
    assert memory.generation(tldr(rows=8)).cache == whole
    assert cache_bytes(tldr(rows=8, platform="cpu")) == (2 * whole, 2 * whole)  # in float32


def test_a_tpu_lays_slots_and_then_rows_in_tiles_of_128_and_holds_half_of_the_cache_twice_between():
    work = Work(replace(pythia("410m"), dtype="bfloat16"), "sft", 100, 512, 53, platform="tpu")
    number = 2 * 24 * 16 * 64 * 2  # keys and values, layers, heads, their width, bytes
    assert cache_bytes(work) == (number * 100 * 640, number * 128 * 564)
    assert memory.generation(work).cache == number * (100 * 640 / 2 + 128 * 564)
    assert memory.generation(work).moment == "decoding"


def test_what_is_there_at_the_worst_moment_of_a_backward_pass_by_hand():
    """Four sequences of 680 tokens on each of eight TPUs, computed in bfloat16, again in the backward pass."""
    shape = replace(pythia("410m"), dtype="bfloat16", remat=True)
    found = memory.training(Work(shape, "dpo", 16, 512, 169, fsdp=8, stored_rows=16, platform="tpu"))
    scores, tokens, block = 4 * 16 * 680 * 768, 4 * 680, 12 * 1024**2 + 13 * 1024
    states = tokens * (4096 + 4 * 1024 + 5 * 1024) * 2
    assert found.moment == "backward"
    assert found.activations == 24 * tokens * 1024 * 2
    assert found.gradients == 4 * (PUBLISHED["410m"] - 50_304 * 1024) / 8  # all but the embedding's
    temporary = scores * (4 + 2) + states + PUBLISHED["410m"] * 2 / 8 + block * 2
    assert found.temporary == pytest.approx(temporary, rel=1e-6)  # the last norm is counted among the blocks


def test_parts_of_a_batch_sum_their_gradients_in_a_copy_of_the_parameters():
    work = tldr("70m", rows=16, accumulate=2)
    found = memory.training(work)
    assert found.moment == "backward"
    assert found.gradients == passed_bytes(work) + parameter_bytes(work)


def test_a_cpu_keeps_a_moment_more_in_an_update_and_three_arrays_of_the_gradient_of_logits():
    gpu, cpu = tldr("70m", "sft"), tldr("70m", "sft", platform="cpu")
    assert next_bytes(cpu) == 2 * next_bytes(gpu) == 2 * parameter_bytes(gpu)
    logits = 4 * 128 * 53 * 50_304
    assert (logits_bytes(gpu), logits_bytes(cpu)) == ((logits, logits / 2), (logits, 3 * logits))


def test_a_block_that_is_gathered_is_split_by_heads_still():
    whole, split = (gathered_bytes(tldr("410m", fsdp=2, tensor=tensor)) for tensor in (1, 2))
    assert split == (whole[0] / 2, whole[1] / 2)
    assert whole == (pytest.approx(2 * (12 * 1024**2 + 13 * 1024), rel=1e-4), 2 * 50_304 * 1024)


def test_what_is_proposed_has_no_fewer_parts_and_keeps_its_split_of_heads():
    work = tldr("70m", rows=16, accumulate=4, data=2, tensor=2)
    found = [*memory.neighbours(memory.training, work)]
    assert {each.devices for each in found} == {4, 8}
    assert {each.tensor for each in found} == {2}
    assert {each.accumulate for each in found if each.devices == 4} == {4, 8}


def test_what_fits_is_not_refused():
    memory.check(memory.generation, tldr("70m", rows=8), chip_named("A100 80GB"), 1)


@pytest.mark.parametrize("size", ["160m", "1b", "2.8b", "6.9b"])
@pytest.mark.parametrize("chip", ["L4", "TPU v5e", "H100"])
@pytest.mark.parametrize("needed", [memory.training, memory.scoring, memory.generation])
def test_the_nearest_setting_fits_and_is_the_same_work(needed, size, chip):
    work, chip = tldr(size, data=4), chip_named(chip)
    found = memory.nearest(needed, work, chip)
    assert found is not None
    assert needed(found).total <= USABLE * chip.memory_bytes
    assert found.rows % (found.accumulate * found.data * found.fsdp) == 0
    assert found.rows == work.rows or needed is not memory.training
    if memory.fits(needed, work, chip):
        assert found == work


def test_parts_come_before_recomputing_and_that_before_more_devices():
    chip = chip_named("H100")
    small = memory.nearest(memory.training, tldr("70m"), chip_named("A100 40GB"))
    assert memory.describe(tldr("70m"), small) == "accumulate=2"
    large = memory.nearest(memory.training, tldr("6.9b", data=2), chip)
    assert (large.data, large.fsdp, large.shape.remat) == (1, 4, False)
    assert memory.describe(tldr("6.9b", data=2), large).endswith(", data=1, fsdp=4 (4 devices)")
    fewer = replace(large, fsdp=2, accumulate=64, shape=replace(large.shape, remat=True))
    assert not memory.fits(memory.training, fewer, chip)


def test_recomputing_is_found_where_one_sequence_is_too_much():
    work = Work(pythia("70m"), "sft", 1, 4000, 53)
    chip = chip_named("A100 80GB")._replace(memory_bytes=int(memory.training(work).total / USABLE) - GIB // 4)
    assert memory.describe(work, memory.nearest(memory.training, work, chip)) == "remat=True"


def test_a_refusal_says_what_there_is_and_what_would_fit():
    words = (
        r"needs [\d.,]+ GiB on each of 1 devices \(TPU v5e\).* 12\.8 GiB of the 16\.0 GiB.*nearest that fits: .*fsdp="
    )
    with pytest.raises(ValueError, match=words):
        memory.check(memory.training, tldr("6.9b"), chip_named("v5e"), 1)
    with pytest.raises(ValueError, match="a layout of 2 devices, and there are 1"):
        memory.check(memory.training, tldr("70m", data=2), chip_named("H100"), 1)
    huge = Work(neox(50_304, 10_000, 20_000, 100), "sft", 1024, 512, 53)
    with pytest.raises(ValueError, match="not even 1024 of them"):
        memory.check(memory.training, huge, chip_named("L4"), 1)


COUNTED = {  # two layers, unrolled: the compiler counts the body of a loop once
    "neox": neox(500, 2, 256, 4, start=False),
    "gemma 2": llama(500, 2, 256, 4, start=False, **GEMMA, score_cap=2.0, window=5, windowed=(0,)),
    "olmo 2": llama(500, 2, 256, 4, key_value_heads=2, start=False, order="after", head_norm="whole"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_operations_are_those_of_the_compiled_forward_pass(name):
    shape = COUNTED[name]
    work = Work(shape, "sft", 3, 40, 9)
    policy = classes.transformer_policy(shape, 9)
    params = jax.eval_shape(policy.init, jax.random.key(0))
    tokens = [jax.ShapeDtypeStruct((3, length), jnp.int32) for length in (40, 9)]
    counted = jax.jit(policy.log_prob).lower(params, *tokens).compile().cost_analysis()["flops"]
    assert flops.scoring_flops(work) == pytest.approx(counted, rel=0.1)
    assert flops.scoring_flops(work) < counted


def test_a_training_step_is_six_operations_a_parameter_and_token():
    work = tldr("1b", "reward_model", rows=64)
    matrices = 805_736_448  # parameters without embeddings
    tokens, layers, width = 128 * 565, 16, 2048
    expected = 6 * matrices * tokens + 12 * layers * 565 * width * tokens
    assert flops.training_flops(work) == pytest.approx(expected, rel=1e-3)
    remat = replace(work, shape=replace(work.shape, remat=True))
    assert flops.training_flops(remat) == pytest.approx(4 / 3 * expected, rel=1e-3)
    assert flops.training_flops(tldr("1b", "sft", rows=64)) > expected / 2


def test_hours_are_operations_over_speed_and_devices():
    work, chip = tldr("1b", rows=128), chip_named("H100")
    seconds = 1000 * flops.training_flops(work) / (0.4 * 989e12)
    assert flops.training_hours(work, chip, 1000) == pytest.approx(seconds / 3600)
    assert flops.training_hours(replace(work, data=8), chip, 1000) == pytest.approx(seconds / 8 / 3600)
    assert flops.scoring_hours(work, chip, 1000) == pytest.approx(seconds / 3 / 3600)


def test_few_responses_wait_for_memory_and_many_for_arithmetic():
    chip = chip_named("H100")
    one, many = (flops.generation_hours(tldr("6.9b", rows=rows), chip, 1) for rows in (1, 512))
    read = 53 * 2 * PUBLISHED["6.9b"] / chip.bandwidth_bytes_per_s / 3600
    assert read < one < 1.1 * read
    assert flops.generation_hours(tldr("6.9b", rows=2, fsdp=2), chip, 1) == pytest.approx(one)  # each reads all of it
    assert many == pytest.approx(flops.generation_flops(tldr("6.9b", rows=512)) / (0.4 * 989e12) / 3600)
