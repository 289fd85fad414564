"""Distances between laws over leaves."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvgap_jax.divergence import entropy, kl, total_variation
from tests import helpers


def law(seed):
    return jnp.asarray(np.log(np.random.default_rng(seed).dirichlet(np.ones(5))))


def as_law(log_law):
    return dict(enumerate(jnp.exp(log_law).tolist()))


def test_sums_over_leaves():
    p, q = law(1), law(2)
    table_p, table_q = as_law(p), as_law(q)
    assert kl(p, q) == pytest.approx(helpers.kl(table_p, table_q))
    assert total_variation(p, q) == pytest.approx(sum(abs(table_p[y] - table_q[y]) for y in table_p) / 2)
    assert entropy(p) == pytest.approx(-sum(value * math.log(value) for value in table_p.values()))


def test_numbers_worked_by_hand():
    fair, certain = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([1.0, 0.0]))
    assert kl(certain, fair) == pytest.approx(math.log(2))
    assert kl(fair, certain) == math.inf
    assert entropy(fair) == pytest.approx(math.log(2))
    assert entropy(certain) == 0
    assert total_variation(fair, certain) == 0.5


def test_every_prompt_has_its_own_distance():
    p, q = jnp.stack([law(1), law(2)]), jnp.stack([law(3), law(2)])
    np.testing.assert_allclose(kl(p, q), [kl(law(1), law(3)), 0], atol=1e-15)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_bounds(first, second):
    p, q = law(first), law(second)
    assert kl(p, q) >= -1e-12
    assert 0 <= total_variation(p, q) <= np.sqrt(max(kl(p, q), 0) / 2) + 1e-12, "Pinsker's inequality"
    uniform = jnp.full(5, -math.log(5))
    assert entropy(p) + kl(p, uniform) == pytest.approx(math.log(5))
