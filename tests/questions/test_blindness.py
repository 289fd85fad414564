"""No method of any question sees the gold reward: with the same labels it is given the same numbers, bit for bit.

And what it must see reaches it: labels, held-out pairs, beta, the labels' temperature and the reference policy.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.kit.backends import on_backend
from experiments.kit.problems import HELD_OUT_EVERY
from experiments.questions import questions
from tests.questions.wiring import another, cells_of, flipped, same, wired

pytestmark = pytest.mark.slow
# Its methods maximise the gold reward on purpose: it checks the instrument.
LEARNING = [name for name in questions() if name != "estimators"]
EVERY = [(name, backend) for backend in ("tree", "transformer") for name in on_backend(questions(), backend)]
every = pytest.mark.parametrize(
    ("name", "backend"), [each for each in EVERY if each[0] in LEARNING], ids=lambda part: part
)
GOLD_FITS = 1  # of the token tasks' last arm, RL on the gold reward


@functools.cache
def rows(name, backend):
    """Every cell of the question that learns from pairs, with what its fits were given."""
    made = [(cell, wired(name, cell, backend)) for cell in cells_of(name, backend)]
    return [(cell, row) for cell, row in made if row.pairs]


def blind_fits(name, row):
    return row.fits[:-GOLD_FITS] if name == "token_tasks" else row.fits


@every
@pytest.mark.parametrize("poison", [another, lambda reward: jnp.nan * reward], ids=["another", "none"])
def test_no_fit_is_given_the_gold_reward(name, backend, poison):
    assert rows(name, backend)
    for cell, row in rows(name, backend):
        assert row.fits
        if cell.numbers.get("known"):
            poison = twice  # this arm is told which terms the gold reward has
        blind = wired(name, cell, backend, poison=poison, given=row.pairs)
        assert len(blind.fits) == len(row.fits)
        for fit, other in zip(blind_fits(name, row), blind_fits(name, blind), strict=True):
            assert same(fit, other), (cell.labels, fit["kind"])
        assert not same(row.records, blind.records) or name == "rival_implicit", "who judges sees it"


def twice(reward):
    return 2.0 * reward


@every
def test_other_labels_reach_every_fit(name, backend):
    """Of the same pairs of responses: only who won is another's."""
    for cell, row in rows(name, backend):
        other = wired(name, cell, backend, given=flipped(row.pairs, held_out=False))
        for fit, changed in zip(blind_fits(name, row), blind_fits(name, other), strict=True):
            assert same(fit["params"], changed["params"]) == (not reads_labels(name, fit)), (cell.labels, fit["kind"])


def reads_labels(name, fit):
    """Human responses are imitated before any pair is labelled."""
    if fit["kind"] != "exact" or name not in ("h6a_model_sizes", "main_table"):
        return True
    return name == "main_table" and fit["settings"].solver != "newton"


ON_COUNTS = ("rival_misspecification", "rival_plateau")  # of outcomes: they hold out a fifth of the draws, not of rows


@every
def test_every_fifth_pair_is_held_out_and_the_others_are_trained_on(name, backend):
    for cell, row in rows(name, backend):
        for fit in (fit for fit in row.fits if fit["kind"] == "pairs" and name != "equivalence"):
            train, held_out = (np.asarray(fit[part].weight) for part in ("train", "held_out"))
            pairs = cell.numbers.get("pairs", cell.labels.get("pairs"))
            if len(fit["known"].reference) == 1 or name not in ON_COUNTS:
                assert held_out.sum() == pairs // HELD_OUT_EVERY
                assert train.sum() == pairs - pairs // HELD_OUT_EVERY
            if name not in ON_COUNTS:
                assert not np.any((train > 0) & (held_out > 0))
                assert set(np.flatnonzero(held_out) % HELD_OUT_EVERY) == {HELD_OUT_EVERY - 1}


@every
@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held-out"])
def test_labels_of_either_side_reach_that_side_alone(name, backend, held_out):
    if name in ("equivalence", "rival_misspecification"):
        pytest.skip("holds nothing out, or draws both sides from one law")
    for cell, row in rows(name, backend):
        other = wired(name, cell, backend, given=flipped(row.pairs, held_out))
        for fit, changed in zip(row.fits, other.fits, strict=True):
            if fit["kind"] == "pairs" and not distils(fit):
                assert same(fit["train"], changed["train"]) != (not held_out)
                assert same(fit["held_out"], changed["held_out"]) == (not held_out)


def distils(fit):
    """Soft labels of a reward model, which are all trained on and select nothing."""
    return same(fit["train"], fit["held_out"])


@every
def test_what_is_known_is_the_rows_own(name, backend):
    """Beta, temperature and reference: of the cell, and told to every fit on pairs."""
    for cell, row in rows(name, backend):
        for fit in (fit for fit in row.fits if fit["kind"] == "pairs"):
            known = fit["known"]
            assert known.beta == cell.numbers.get("beta", cell.numbers.get("human_beta", known.beta))
            assert known.temperature == cell.numbers.get("temperature", 1.0)
            np.testing.assert_allclose(np.exp(known.reference).sum(-1), 1.0)
        for number in {"beta", "human_beta", "temperature"} & set(cell.numbers):
            changed = wired(name, cell, backend, given=row.pairs, **{number: 1.7})
            for fit, other in zip(row.fits, changed.fits, strict=True):
                if fit["kind"] == "pairs":
                    told = other["known"].temperature if number == "temperature" else other["known"].beta
                    assert told == pytest.approx(1.7)
                    assert not same(fit["margins"], other["margins"]) or number != "temperature"
