"""Token tasks: which families a small reward model can hold, the exact scale of shares, pairs, and known findings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.questions import token_tasks, token_tasks_arms
from experiments.questions.token_tasks_arms import ARMS, DPO, GOLD, REFERENCE, SAME, SIMPLE
from experiments.questions.token_tasks_families import FAMILIES, Sizes
from gvgap_jax.lm.model.shape import llama

SIZES = Sizes(vocabulary=4, horizon=3, prompt_length=2, prompts=2)
WINDOWS = ("interactions", "colouring", "subset_sum", "automaton")
SHARE = {REFERENCE: 0.0, DPO: 0.3, SAME: 0.3, SIMPLE: 0.6, GOLD: 0.95}


def every_response(task):
    """All responses to every prompt, and their gold rewards [X, L]."""
    leaves = np.array(list(itertools.product(range(task.vocabulary), repeat=task.horizon)))
    prompts = np.asarray(task.prompt_table)
    rows = jnp.asarray(prompts.repeat(len(leaves), axis=0)), jnp.asarray(np.tile(leaves, (len(prompts), 1)))
    return *rows, np.asarray(task.reward(*rows)).reshape(len(prompts), len(leaves))


@pytest.mark.parametrize("family", WINDOWS)
def test_a_verifier_of_windows_holds_the_gold_reward_where_it_is_said_to(family):
    task, key = token_tasks_arms.task_of(family, SIZES, 1.0, 0)
    prompts, responses, reward = every_response(task)
    verifier = FAMILIES[family].verifier(task)
    read = jax.jacobian(lambda params: verifier.score(params, prompts, responses))(verifier.init(key))
    read = np.asarray(read).reshape(*reward.shape, -1)
    # Pairs compare responses to the same prompt: what a prompt adds to all of them cannot be read.
    read, reward = (values - values.mean(axis=1, keepdims=True) for values in (read, reward))
    fitted = np.linalg.lstsq(read.reshape(reward.size, -1), reward.reshape(-1), rcond=None)[0]
    missed = np.abs(read.reshape(reward.size, -1) @ fitted - reward.reshape(-1)).max()
    assert (missed < 1e-9) == FAMILIES[family].easy


@pytest.mark.parametrize("family", ["token_counts", "sorting", "hidden_reference"])
def test_counts_hold_the_gold_reward_where_they_are_said_to(family):
    task, _ = token_tasks_arms.task_of(family, SIZES, 1.0, 0)
    prompts, responses, reward = every_response(task)
    if family == "sorting":  # windows of two read what is out of order
        reward = reward + 2 * np.sum(np.diff(responses, axis=1) < 0, axis=1).reshape(reward.shape)
    kinds = {}
    for prompt, response, value in zip(np.asarray(prompts), np.asarray(responses), reward.reshape(-1), strict=True):
        kinds.setdefault((tuple(prompt), tuple(sorted(response))), []).append(value)
    spread = max(np.ptp(values) for values in kinds.values())
    assert (spread < 1e-9) == FAMILIES[family].easy


def test_pairs_are_the_same_whatever_labels_them_and_every_fifth_is_held_out():
    program = token_tasks_arms.Program("token_counts", SIZES, llama(4, 1, 8), 200, 25)

    @jax.jit
    def drawn(informed):
        scene, _ = token_tasks_arms.scene_of(program, {"seed": 3, "beta": 1.0, "informed": informed})
        gold = token_tasks_arms.gold_verifier(scene)
        return scene.train, scene.held_out, token_tasks_arms.accuracy(gold, (), scene)

    train, held_out, accuracy = drawn(1)
    coin_train, coin_held_out, coin_accuracy = drawn(0)
    assert (len(train.weight), len(held_out.pairs.weight)) == (160, 40)
    for pairs, coins in ((train, coin_train), (held_out.pairs, coin_held_out.pairs)):
        np.testing.assert_array_equal(pairs.prompts, coins.prompts)
        np.testing.assert_array_equal(pairs.chosen + pairs.rejected, coins.chosen + coins.rejected)
    assert not np.array_equal(train.chosen, coin_train.chosen)
    assert accuracy > 0.7 > 0.65 > coin_accuracy


def made_up_fits(seeds: int = 32, drift: float = 0.01) -> pl.DataFrame:
    """Arms that gain the shares above where checking is easy, DPO what RLHF gains elsewhere, and nothing from coins."""
    rows = []
    for seed, (family, informed) in itertools.product(
        range(seeds), (("token_counts", 1), ("token_counts", 0), ("hidden_reference", 1))
    ):
        ends = token_tasks.exact(family, SIZES, 1.0, seed)
        row = {"family": family, "pairs": 500, **SIZES._asdict(), "layers": 1, "width": 8, "steps": 25, "beta": 1.0}
        row |= {"informed": informed, "seed": seed, "converged": True, "status": "ok"}
        for arm in ARMS:
            share = SHARE[arm] if informed or arm == GOLD else 0.0
            share = SHARE[DPO] if family == "hidden_reference" and arm == SIMPLE else share
            row[f"{arm}: objective"] = ends.random + (share + drift * (seed % 5)) * (ends.best - ends.random)
            row |= {f"{arm}: {name}": 0.0 for name in ("gold_reward", "kl_to_reference", "error")}
            row[f"{arm}: accuracy"] = 0.5 + share / 4
        rows.append(row)
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def fits():
    return made_up_fits()


def found_in(fits: pl.DataFrame) -> dict:
    return {finding.claim: finding for finding in token_tasks.findings({"fits": fits})}


def test_exact_ends_against_enumeration():
    task, _ = token_tasks_arms.task_of("hidden_reference", SIZES, 2.0, 7)
    *_, reward = every_response(task)
    ends = token_tasks.exact("hidden_reference", SIZES, 2.0, 7)
    assert ends.random == pytest.approx(reward.mean())
    assert ends.best == pytest.approx(np.mean(2 * np.log(np.mean(np.exp(reward / 2), axis=1))))
    assert ends.best != token_tasks.exact("hidden_reference", SIZES, 2.0, 8).best


def test_shares_are_of_the_possible_gain_of_each_row(fits):
    table = token_tasks.shares(fits).filter(family="token_counts", informed=1, seed=2)
    assert dict(table.select("arm", "share").iter_rows()) == pytest.approx({a: s + 0.02 for a, s in SHARE.items()})


def test_known_gains_are_found_and_paired_by_seed(fits):
    found = found_in(fits)
    gain = found["token_counts, 500 pairs: RLHF on a simple verifier less DPO"]
    assert gain.interval.estimate == pytest.approx(0.3)
    assert gain.interval.high - gain.interval.low < 1e-6  # what arms of a seed share is gone
    assert gain.verdict == "supported"
    assert found["token_counts, 500 pairs: RL on the gold reward"].interval.estimate == pytest.approx(
        0.95 + 0.01 * 61 / 32
    )
    contrast = next(finding for claim, finding in found.items() if "where it is not" in claim)
    assert contrast.interval.estimate == pytest.approx(0.3)
    lost = next(finding for claim, finding in found.items() if claim.startswith("token_counts") and "lost" in claim)
    assert lost.interval.estimate == pytest.approx(0.35 - (0.05 - 0.01 * 61 / 32))


def test_no_gap_where_there_is_none(fits):
    found = found_in(fits)
    here = {claim: finding for claim, finding in found.items() if claim.startswith("hidden_reference")}
    assert here["hidden_reference, 500 pairs: RLHF on a simple verifier less DPO"].interval.estimate == pytest.approx(0)
    assert here["hidden_reference, 500 pairs: RLHF on a simple verifier less DPO"].direction == "at"


def test_controls_fail_when_coins_teach_or_samples_drift(fits):
    controls = {claim: finding for claim, finding in found_in(fits).items() if finding.control}
    assert {controls[f"labels by coin flips: {arm}"].verdict for arm in (DPO, SAME, SIMPLE)} == {"supported"}
    assert all(control.passes for control in controls.values())
    learned = pl.when(informed=0).then(pl.col(f"{DPO}: objective") + 1).otherwise(pl.col(f"{DPO}: objective"))
    drifted = pl.col(f"{REFERENCE}: objective") + 1
    broken = found_in(fits.with_columns(learned.alias(f"{DPO}: objective"), drifted.alias(f"{REFERENCE}: objective")))
    assert broken["J of the reference: sampled less exact"].verdict == "different: above"
    assert broken[f"labels by coin flips: {DPO}"].verdict == "contradicted"


BREAKS = {
    **{f"labels by coin flips: {arm}": (f"{arm}: objective", 1.0) for arm in (DPO, SAME, SIMPLE)},
    "J of the reference: sampled less exact": (f"{REFERENCE}: objective", 1.0),
    "largest standard error of a sampled J": (f"{GOLD}: error", 9.0),
}


@pytest.mark.parametrize("claim", BREAKS)
def test_every_control_passes_alone_where_nothing_is_wrong_and_fails_where_it_is(claim):
    sound = made_up_fits(drift=0)
    column, moved = BREAKS[claim]
    found, broken = (found_in(each) for each in (sound, sound.with_columns(pl.col(column) + moved)))
    assert {name for name, finding in found.items() if finding.control} == set(BREAKS)
    assert all(found[name].passes for name in BREAKS)
    assert [name for name in BREAKS if not broken[name].passes] == [claim]


def test_what_is_missing_from_a_grid_is_left_out(fits):
    found = found_in(fits.filter(family="hidden_reference"))
    assert not any("token_counts" in claim or "coin" in claim or "where it is not" in claim for claim in found)


def test_a_figure_has_a_panel_for_each_family(fits):
    drawn = token_tasks.draw({"fits": fits})["token_tasks"]
    assert [axis.get_title().split(" (")[0] for axis in drawn.axes] == ["token counts", "hidden reference"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "chess"}, "family must be one of token_counts"),
        ({"labels": "silver"}, "labels must be 'gold' or 'coin'"),
        ({"vocabulary": 3}, "vocabulary must be at least 4"),
        ({"width": 6}, "width must be a multiple of 4"),
        ({"steps": 30}, "steps must be a multiple of 25"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"pairs": 4}, "at least 5"),
    ],
)
def test_bad_settings_are_refused_at_the_edge(settings, message):
    with pytest.raises(ValueError, match=message):
        token_tasks.Config(**settings)
