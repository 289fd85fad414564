"""LongRoPE (arXiv 2402.13753): a divisor for every frequency, and cosines and sines that are multiplied.

``test_families_peers`` compares a random model with transformers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.lm.hf import architectures
from gvgap_jax.lm.model import attention, transformer
from gvgap_jax.lm.model.shape import RotaryScaling, Shape, llama
from tests.lm.golden_checkpoints.configs import CONFIGS

DIVISORS = (1.5, 3.0)
SCALING = RotaryScaling(1.0, 6, divisors=DIVISORS, amplitude=1.25)
SHAPE = llama(7, width=8, start=False, rotary_scaling=SCALING, dtype="float64")  # two heads of 4 numbers
LONG = {"type": "longrope", "short_factor": [1.5, 3.0], "long_factor": [5.0, 9.0]}
PHI_3 = CONFIGS["phi3"] | {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 16}
PHI_3 |= {"max_position_embeddings": 64, "rope_scaling": LONG}


def test_each_pair_of_numbers_turns_by_its_frequency_over_its_divisor():
    frequency = attention.of_layers(SHAPE)[1]
    x = np.random.default_rng(0).normal(size=4)
    turned = attention.rotate(jnp.asarray(x)[None, None, None], jnp.array([[3]]), frequency, SCALING.amplitude)
    wanted = np.zeros(4)
    for pair, divisor in enumerate(DIVISORS):
        angle = 3 * 10_000.0 ** (-pair / 2) / divisor
        one, other = x[pair], x[pair + 2]
        wanted[pair] = 1.25 * (one * np.cos(angle) - other * np.sin(angle))
        wanted[pair + 2] = 1.25 * (other * np.cos(angle) + one * np.sin(angle))
    np.testing.assert_allclose(turned[0, 0, 0], wanted, rtol=1e-12)


@pytest.mark.parametrize("change", [{"divisors": (1.5, 3.5)}, {"amplitude": 1.0}])
def test_what_a_model_says_depends_on_each(change):
    other = dataclasses.replace(SHAPE, rotary_scaling=dataclasses.replace(SCALING, **change))
    params, tokens = transformer.init(SHAPE, 7, jax.random.key(0)), jnp.arange(6)[None]
    states = [transformer.forward(shape, params, tokens)[0] for shape in (SHAPE, other)]
    assert jnp.abs(states[0] - states[1]).max() > 1e-4


def test_rows_longer_than_pretraining_are_refused():
    params = transformer.init(SHAPE, 7, jax.random.key(0))
    transformer.forward(SHAPE, params, jnp.zeros((1, 6), int))
    with pytest.raises(ValueError, match="reads rows of up to 6 tokens, and 7 are fed"):
        transformer.forward(SHAPE, params, jnp.zeros((1, 7), int))


@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_short_factors_are_read(kind):
    scaling = architectures.shape_of(PHI_3 | {"rope_scaling": LONG | {"type": kind}}).rotary_scaling
    assert scaling == RotaryScaling(1.0, 16, divisors=DIVISORS, amplitude=(1 + np.log(4) / np.log(16)) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "amplitude"),
    [
        ({"attention_factor": 1.5}, 1.5),
        ({"factor": 16.0}, 2**0.5),
        ({"factor": 0.5}, 1.0),
        ({"attention_factor": None, "factor": None}, 1.5**0.5),
    ],
)
def test_the_amplitude_is_what_is_written_or_follows_from_the_lengths(changes, amplitude):
    scaling = architectures.shape_of(PHI_3 | {"rope_scaling": LONG | changes}).rotary_scaling
    assert scaling is not None
    assert scaling.amplitude == pytest.approx(amplitude, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"short_factor": None}, "have no short_factor"),
        ({"short_factor": [1.5]}, "2 frequencies need as many divisors, got 1"),
        ({"short_factor": [1.5, "x"]}, "short_factor must be a list of numbers, got 'x'"),
        ({"short_factor": [1.5, 0]}, "short_factor must be a list of numbers, got 0"),
        ({"short_factor": "1.5"}, "short_factor must be a list"),
        ({"attention_factor": -1}, "attention_factor must be a number"),
        ({"type": "linear", "factor": 2.0}, "short_factor = .* is not known here"),
        ({"type": "longrope", "beta_fast": 32}, "beta_fast = 32 is not known here"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        architectures.shape_of(PHI_3 | {"rope_scaling": LONG | changes})


@pytest.mark.parametrize(
    "given", [{"divisors": (1.0,)}, {"context": 4, "divisors": (0.0,)}, {"amplitude": 0.0}, {"amplitude": float("nan")}]
)
def test_impossible_divisors_are_refused(given):
    with pytest.raises(ValueError, match="RotaryScaling: "):
        RotaryScaling(1.0, **given)


def test_a_shape_that_no_config_here_can_say_is_not_written_as_another():
    with pytest.raises(ValueError, match="no family here has models of this shape"):
        architectures.config_of(dataclasses.replace(SHAPE, dtype="float32"))


def test_records_of_other_scalings_keep_their_names():
    assert repr(RotaryScaling(8.0, 16)) == "RotaryScaling(factor=8.0, context=16, low=1.0, high=4.0)"
    assert "divisors=(1.5, 3.0), amplitude=1.25" in repr(Shape(7, rotary=0.25, rotary_scaling=SCALING))
