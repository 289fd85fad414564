"""Misspecified classes: the three arms against published numbers and brute force, and verdicts on made-up records."""

import itertools
import math
from functools import partial

import jax
import numpy as np
import polars as pl
import pytest
from scipy import optimize

from experiments.questions import rival_misspecification as experiment
from experiments.questions.rival_misspecification import ARMS, Config, Program
from gvgap_jax import tasks, verifiers
from theory import rivals


def run_arms(**columns):
    """Records of the three arms, one row an entry; the program takes longer to optimise than to run."""
    rows = {"seed": np.arange(len(columns["free"])), "pairs": np.array(columns.pop("pairs"))}
    rows |= {name: np.array(values, float if name != "free" else int) for name, values in columns.items()}
    lowered = jax.jit(jax.vmap(partial(experiment.run, Program("arms", ARMS, 0)))).lower(rows)
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})(rows)


def best_theta(beta):
    """The theta of softmax(theta, -theta, 0) that maximises J of the gold rewards, and its gold reward."""

    def law(theta):
        weights = [math.exp(theta), math.exp(-theta), 1.0]
        return [weight / sum(weights) for weight in weights]

    def loss(theta):
        return -sum(p * (r - beta * math.log(3 * p)) for p, r in zip(law(theta), rivals.REWARD[0], strict=True))

    theta = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    return sum(p * r for p, r in zip(law(theta), rivals.REWARD[0], strict=True))


def test_many_pairs_end_where_it_was_published():
    """Sampled labels of 4 million pairs against the exact minimisers of the population."""
    cases = [(beta, counts[2], reward) for beta, counts, _, reward in rivals.PUBLISHED_DPO if counts[:2] == (1, 1)]
    beta, skew, reward = zip(*cases, strict=True)
    everyone = [1.0, 3.0]
    found = run_arms(
        free=[0] * len(cases) + [1] * 2,
        beta=[*beta, *everyone],
        skew=[*skew, 100.0, 1.0],
        pairs=[2**22] * (len(cases) + 2),
    )
    assert found["converged"].all()
    np.testing.assert_allclose(found["gold_reward_dpo"][: len(cases)], reward, atol=2e-3)
    np.testing.assert_allclose(found["gold_reward_rlhf"][: len(cases)], [best_theta(b) for b in beta], atol=0.02)
    np.testing.assert_allclose(found["gold_reward_dpo"][-2:], found["gold_reward_rlhf"][-2:], atol=1e-3)


@pytest.mark.parametrize("free", experiment.POLICIES)
def test_policies_over_arms_are_those_of_the_theory(free):
    """softmax(theta, -theta, 0) at theta = 0.3, and an arbitrary policy where all of them are free."""
    task = tasks.make_task(ARMS, rivals.REWARD, beta=0.7)
    teacher = verifiers.linear(ARMS, experiment._arm_features(free))
    policy = verifiers.soft_optimal_class(ARMS, teacher, task.reference, task.beta)
    params = 0.7 * np.array([0.3, 1.0, -2.0, 0.5])
    expected = np.array([0.3, -0.3, 0.0]) + free * np.array([1.0, -2.0, 0.5])
    expected -= np.log(np.exp(expected).sum())
    np.testing.assert_allclose(policy.leaf_log_probs(params)[0], expected, atol=1e-9)


def made_up(policy_floor, reward_floor, size):
    """Regret of a class: its floor where it is too small, plus its order times ``size`` over the pairs."""

    def regret(order, floor, pairs):
        return (floor if order < 2 else 0.0) + order * size / pairs

    fits, limits = [], []
    for seed, policy, verifier in itertools.product(range(32), (1, 2, 4), (1, 2)):
        row = {"seed": seed, "gold_order": 2, "policy_order": policy, "verifier_order": verifier}
        row |= {"status": "ok", "penalty_dpo": 1.0, "penalty_rlhf": 1.0}
        wobble = 1 + 0.01 * seed
        floors = policy_floor if policy < verifier else 0.0, reward_floor
        for pairs, table in ((64, fits), (256, fits), (4096, fits), (math.inf, limits)):
            dpo = regret(policy, floors[0] if policy < verifier else reward_floor, pairs)
            table.append(
                row | {"pairs": pairs, "regret_dpo": wobble * dpo}
                | {"regret_rlhf": wobble * regret(verifier, floors[1], pairs)}
            )  # fmt: skip
    return {"fits": pl.DataFrame(fits).cast({"pairs": pl.Int64}), "limits": pl.DataFrame(limits)}


def made_up_arms(remaining):
    """RLHF is 0.4 better with few pairs and ``remaining`` times that with the most; 0.1 where counts are even."""
    rows = []
    for seed, skew, pairs, free in itertools.product(range(32), (1.0, 100.0), (64, 1024), (0, 1)):
        gap = (0.4 if skew > 1 else 0.1) * (1 if pairs == 64 else remaining) * (1 + 0.01 * seed) * (1 - free)
        rows.append(
            {"seed": seed, "skew": skew, "pairs": pairs, "free": free, "beta": 1.0, "status": "ok"}
            | {"penalty_dpo": 1.0, "penalty_rlhf": 1.0, "gold_reward_dpo": 1.4 - gap, "gold_reward_rlhf": 1.4}
        )
    return {"arms": pl.DataFrame(rows)}


def verdict(tables, *words):
    found = {f.verdict for f in experiment.findings(tables) if all(word in f.claim for word in words)}
    assert len(found) == 1
    return found.pop()


def test_a_gap_of_misspecification_stays():
    tables = made_up(policy_floor=0.7, reward_floor=1.4, size=10.0)
    assert verdict(tables, "policies too small", "infinitely") == "supported"
    assert verdict(tables, "policies too small", " 64 pairs") == "contradicted"
    assert verdict(tables, "reward models too small", "infinitely") == "supported"
    assert verdict(tables, "both hold the gold, infinitely") == "supported"
    assert verdict(tables, "same class") == "supported"
    assert verdict(made_up_arms(1.0), "is left") == "supported"
    assert verdict(made_up_arms(1.0), "how much wider") == "supported"
    assert verdict(made_up_arms(1.0), "every policy") == "supported"


def test_a_gap_of_sample_size_closes():
    tables = made_up(policy_floor=0.0, reward_floor=0.0, size=100.0)
    assert verdict(tables, "policies too small", " 64 pairs") == "supported"
    assert verdict(tables, "policies too small", "4,096 pairs") == "contradicted"
    assert verdict(tables, "reward models simpler,") == "supported"
    assert verdict(tables, "less than half is left") == "supported"
    assert verdict(made_up_arms(1 / 16), "more than half is left") == "contradicted"


def test_a_difference_between_equal_classes_is_seen():
    tables = made_up(0.7, 1.4, 10.0)
    tables["fits"] = tables["fits"].with_columns(
        regret_dpo=pl.col("regret_dpo") + 0.01 * (pl.col("policy_order") == pl.col("verifier_order"))
    )
    assert verdict(tables, "same class") == "contradicted"


FAILED = pl.when(pl.col("seed") == 0).then(pl.lit("not converged")).otherwise("status")


def test_fits_that_did_not_converge_are_failed_seeds():
    tables = made_up_arms(1.0)
    tables["arms"] = tables["arms"].with_columns(status=FAILED)
    assert {(f.interval.seeds, f.interval.failed) for f in experiment.findings(tables)} == {(31, 1)}


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="'arms' or 'tree'"):
        Config(setting="bandit")
    with pytest.raises(ValueError, match="skew must be positive"):
        Config(skew=0.0)
    with pytest.raises(ValueError, match="policy_order must be at least 1"):
        Config(policy_order=0)
    assert experiment.cells(Config(policy_order=5)) == []
