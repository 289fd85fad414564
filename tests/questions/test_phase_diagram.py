"""The phase diagram: its theory against brute force and against fits, its verdicts on made-up records, its figures."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import pytest
import scipy.optimize

from experiments.cli import predict
from experiments.questions import phase_diagram, phase_diagram_figures, phase_diagram_records, sample_complexity
from experiments.questions.phase_diagram import Config
from gvgap_jax import TokenTree, algorithms, complexity, divergence, losses, policies, preferences, tasks, verifiers
from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.cells import batches

TINY = Grid(
    {
        "horizon": (2, 2),
        "policy": ("tabular", "interactions"),
        "policy_order": (1, 2),
        "gold_order": (1, 2),
        "verifier_order": (1, 2),
        "pairs": (512, 4096),
    },
    (("horizon", "policy", "policy_order"),),
    seeds=4,
)


@cache
def records():
    """Tables of the tiny grid; its programs take longer to optimise than to run."""
    tables: dict[str, list] = {}
    for batch in batches(Config, phase_diagram.cells, TINY):
        program = jax.jit(jax.vmap(partial(phase_diagram.run, batch.program))).lower(batch.columns)
        found = program.compile(compiler_options={"xla_backend_optimization_level": 0})(batch.columns)
        labels = [pl.lit(value).alias(name) for name, value in batch.labels.items()]
        frame = pl.DataFrame(batch.columns | jax.device_get(found)).select(*labels, pl.all(), status=pl.lit("ok"))
        tables.setdefault(batch.table, []).append(frame)
    return {table: pl.concat(frames) for table, frames in tables.items()}


# The population fit


def test_population_fit_is_the_brute_force_minimiser(tree, task):
    """A loop over all pairs, and a minimiser that knows nothing of the class."""
    verifier = verifiers.interactions(tree, 1)
    pairs = preferences.population(tree, task)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        reward = verifier.leaf_scores(params)
        chosen, rejected = (tree.at(reward, pairs.prompts, side) for side in pairs[1:3])
        return losses.bradley_terry((chosen - rejected) / task.temperature, pairs.weight)

    start = verifier.init(jax.random.key(0))
    expected = scipy.optimize.minimize(lambda x: jax.device_get(loss(x)), start, jac=True, tol=1e-12)
    fit = complexity.population_fit(verifier, start, task, tolerance=1e-10)
    assert fit.converged
    np.testing.assert_allclose(fit.params, expected.x, atol=1e-5)
    np.testing.assert_allclose(loss(fit.params)[1], 0, atol=1e-9)
    assert fit.loss == pytest.approx(expected.fun)


def test_population_fit_of_a_class_that_holds_the_gold_reward_is_the_gold_reward(tree, task):
    verifier = verifiers.interactions(tree, 3)
    fit = complexity.population_fit(verifier, verifier.init(jax.random.key(0)), task, tolerance=1e-12)
    found = task._replace(reward=verifier.leaf_scores(fit.params))
    np.testing.assert_allclose(found.optimal, task.optimal, atol=1e-9)


# The dimension of a second stage


def test_policies_that_hold_the_reward_models_feel_all_of_their_errors(tree, task):
    small, large = (
        complexity.reward_gradients(verifier, verifier.init(jax.random.key(0)))
        for verifier in (verifiers.interactions(tree, 1), verifiers.interactions(tree, 2))
    )
    alone = complexity.effective_dimension(small, task)
    assert complexity.effective_dimension(small, task, policy_gradients=large) == pytest.approx(float(alone))
    lossy = complexity.effective_dimension(large, task, policy_gradients=small)
    assert alone < lossy < complexity.effective_dimension(large, task)


def test_what_a_small_policy_class_follows_is_the_projection_of_the_errors():
    """The second stage, solved for a small error of the reward, against the least-squares prediction of it."""
    tree = TokenTree(3, 2)
    task = tasks.interactions(jax.random.key(0), tree, 1)
    policy = verifiers.soft_optimal_class(tree, verifiers.interactions(tree, 1), task.reference, task.beta)
    small, large = (verifiers.interactions(tree, order) for order in (1, 2))
    followed, gradients = (complexity.reward_gradients(v, v.init(jax.random.key(0))) for v in (small, large))
    error = 1e-3 * jax.random.normal(jax.random.key(1), (gradients.shape[-1],))
    settings = algorithms.Settings(rl_tolerance=1e-12)
    fit = algorithms.second_stage(jax.random.key(0), policy, task.reward + gradients @ error, task.known, settings)
    regret = divergence.kl(policy.leaf_log_probs(fit.params), task.optimal)[0]
    covariance = complexity.policy_covariance(gradients, task, followed)
    assert regret == pytest.approx(float(error @ covariance @ error) / 2, rel=1e-2)


# Cells and programs


def test_points_share_what_they_do_not_change():
    """Every tabular point, and every class of policies that holds Pi(R), asks for the same RLHF."""
    tabular, interactions = Config(verifier_order=2), Config(verifier_order=2, policy="interactions", policy_order=3)
    assert phase_diagram.cells(tabular)[1] == phase_diagram.cells(interactions)[1]
    lossy = Config(verifier_order=2, policy="interactions", policy_order=1)
    assert phase_diagram.cells(lossy)[1] != phase_diagram.cells(tabular)[1]
    other = Config(verifier_order=3)
    assert phase_diagram.cells(tabular)[0] == phase_diagram.cells(other)[0]


def test_numbers_of_pairs_share_a_program_up_to_the_next_size():
    programs = [phase_diagram.cells(Config(pairs=pairs))[0].program for pairs in (64, 4096, 4097, 32768)]
    assert [program.pairs for program in programs] == [4096, 4096, 32768, 32768]


@pytest.mark.parametrize(
    "impossible",
    [
        {"horizon": 2, "gold_order": 3},
        {"horizon": 2, "verifier_order": 3},
        {"horizon": 2, "policy": "interactions", "policy_order": 3},
        {"task": "token_counts", "gold_order": 4},
        {"task": "automaton", "gold_order": 1},
        {"task": "sparse", "horizon": 1, "gold_order": 3},
    ],
)
def test_impossible_points_have_no_cells(impossible):
    assert phase_diagram.cells(Config(**impossible)) == []


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_family_of_gold_rewards_can_be_run(task):
    """Traced, not compiled: complexities are data or constants as the family needs."""
    for cell in phase_diagram.cells(Config(horizon=2, task=task, gold_order=2, policy="interactions")):
        found = jax.eval_shape(partial(phase_diagram.run, cell.program), cell.numbers | {"seed": 3})
        assert found["trusted" if cell.table == "predictions" else "converged"].shape == ()


@pytest.mark.parametrize("preset", phase_diagram.PRESETS)
def test_presets_are_sound(preset):
    """Few enough programs to compile, and every table there."""
    found = batches(Config, phase_diagram.cells, phase_diagram.PRESETS[preset])
    assert {batch.table for batch in found} == {"fits", "dimensions", "predictions"}
    if preset == "quick":
        assert len(found) <= 17
        assert 3_000 < sum(batch.size for batch in found) < 25_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "interaction"}, "Did you mean 'interactions'"),
        ({"policy": "table"}, "policy must be 'tabular' or 'interactions', got 'table'"),
        ({"gold_order": 0}, "gold_order must be at least 1, got 0"),
        ({"verifier_order": -1}, "verifier_order must be at least 1"),
        ({"policy_order": 0}, "policy_order must be at least 1"),
        ({"vocabulary": 1}, "vocabulary must be at least 2"),
        ({"pairs": 4}, "pairs must be at least 5"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"temperature": float("nan")}, "temperature must be positive"),
        ({"reference_scale": -1.0}, "reference_scale must be at least 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


# What is run


def test_dimensions_are_those_of_sample_complexity():
    tree = TokenTree(3, 2)
    numbers = {"gold_order": 1, "beta": 1.0, "temperature": 1.0, "reference_scale": 0.0, "seed": 3}
    other = sample_complexity.run(sample_complexity.Program("limits", tree, 0), numbers | {"order": 2})
    cell = phase_diagram.cells(Config(horizon=2, verifier_order=2))[3]
    found = phase_diagram.run(cell.program, cell.numbers | {"seed": 3})
    assert found["effective_dimension"] == pytest.approx(float(other["effective_dimension"]))


def test_a_class_that_holds_the_gold_reward_has_no_floor():
    dimensions = records()["dimensions"]
    holds = pl.min_horizontal("policy_order", "verifier_order") >= pl.col("gold_order")
    np.testing.assert_allclose(dimensions.filter(holds)["floor"], 0, atol=1e-8)
    assert dimensions.filter(~holds)["floor"].min() > 1e-3


@pytest.mark.parametrize(("policy_order", "verifier_order"), [(1, 1), (2, 1), (2, 2)])
def test_the_second_stage_is_lossless_where_the_policies_hold_the_soft_optimal_ones(policy_order, verifier_order):
    """The projection onto the class, solved, is the closed form that the cells use instead."""
    tree = TokenTree(3, 2)
    task = tasks.interactions(jax.random.key(0), tree, 2)._replace(beta=jnp.array(0.7))
    verifier = verifiers.nested_interactions(tree, verifier_order)
    reward = verifier.leaf_scores(jax.random.normal(jax.random.key(1), verifier.init(jax.random.key(0)).shape))
    teacher = verifiers.nested_interactions(tree, policy_order)
    policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    settings = algorithms.Settings(rl_tolerance=1e-10)
    projected = algorithms.second_stage(jax.random.key(0), policy, reward, task.known, settings)
    tabular = policies.tabular(tree)
    closed = algorithms.second_stage(jax.random.key(0), tabular, reward, task.known, settings)
    np.testing.assert_allclose(
        policy.leaf_log_probs(projected.params), tabular.leaf_log_probs(closed.params), atol=1e-6
    )


def test_equal_classes_end_at_the_same_policy():
    """Theorem 2.2: the gap vanishes for every n, whether or not the class holds the gold reward."""
    same = (pl.col("policy") == "interactions") & (pl.col("policy_order") == pl.col("verifier_order"))
    equal = phase_diagram_records.gaps(records()).filter(same)
    assert len(equal) == 2 * 2 * 4
    np.testing.assert_allclose(equal["gap"], 0, atol=1e-6)
    np.testing.assert_array_equal(equal["predicted_gap"], 0)


def test_arms_share_task_and_pairs():
    """Every gap is between fits of one seed, and there is one for every point of the grid and seed."""
    paired = phase_diagram_records.gaps(records())
    assert len(paired) == 2 * 2 * 2 * 2 * 4
    assert paired["converged"].all()
    assert paired["converged_rlhf"].all()
    np.testing.assert_allclose(paired["reference_regret"], paired["reference_regret_rlhf"])


# What is made of the records


def made_up_records(dpo=1.0, rlhf=1.0, spread=0.0, seeds=32):
    """Regrets as predicted, times a factor for each arm; ``spread`` moves them up and down by seed.

    Policies are tabular, or interactions of order 1: the second stage of order-2 reward models is then lossy.
    """
    task = {"task": "interactions", "vocabulary": 3, "horizon": 2, "temperature": 1.0, "reference_scale": 0.0}
    dimensions, fits = [], []
    for seed in range(seeds):
        wobble = np.exp(spread * (-1) ** seed)
        for gold, (beta, simple, table) in itertools.product((1, 2), ((0.5, 20.0, 200.0), (1.0, 10.0, 40.0))):
            here = task | {"gold_order": gold, "beta": beta, "seed": seed}
            floor = 0.0 if gold == 1 else 0.5
            theory = {(1, 2): (simple, floor), (2, 2): (table, 0.0), (2, 1): (1.5 * simple, floor)}
            for (order, through), (dimension, least) in theory.items():
                dimensions.append(
                    here | {"verifier_order": order, "policy_order": through, "effective_dimension": dimension}
                    | {"floor": least, "reference_regret": 2.0, "status": "ok"}
                )  # fmt: skip
            for pairs in (50, 500, 5000):
                fit = here | {"pairs": pairs, "penalty": 1.0, "status": "ok"}
                regret = {key: min(2.0, least + size / (1.6 * pairs)) for key, (size, least) in theory.items()}
                for policy, order in (("tabular", 2), ("interactions", 1)):
                    row = fit | {"arm": "DPO", "policy": policy, "policy_order": order, "verifier_order": 0}
                    fits.append(row | {"regret": dpo * wobble * regret[order, 2]})
                for order, through in theory:
                    policy = "tabular" if through == 2 else "interactions"
                    row = fit | {"arm": "RLHF", "policy": policy, "policy_order": through, "verifier_order": order}
                    fits.append(row | {"regret": rlhf / wobble * regret[order, through]})
    return {"fits": pl.DataFrame(fits), "dimensions": pl.DataFrame(dimensions)}


def test_the_law_of_few_pairs_is_what_is_predicted_where_it_was_asked():
    """Of DPO by its class, of RLHF with every policy by its reward models; not of a second stage held to a class."""
    tables = made_up_records(seeds=2)
    task = [*phase_diagram_records.TASK, "seed", "pairs"]
    points = tables["fits"].select(task).unique(maintain_order=True)
    law = pl.concat(
        points.with_columns(order=pl.lit(order, pl.Int64), expected=10.0 + order, trusted=pl.lit(order != 1))
        for order in (0, 1, 2)
    )
    found = phase_diagram_records.arms(tables | {"predictions": law})
    unlike = phase_diagram_records.arms(tables)
    np.testing.assert_array_equal(found["leading"], unlike["predicted"])
    said = {
        row: values["predicted"].unique().to_list()
        for row, values in found.group_by("arm", "policy", "verifier_order")
        if row[:2] != ("RLHF", "interactions")
    }
    assert said == {
        ("DPO", "tabular", 0): [10.0],
        ("DPO", "interactions", 0): [11.0],
        ("RLHF", "tabular", 1): [11.0],
        ("RLHF", "tabular", 2): [12.0],
    }
    lossy = pl.col("arm").eq("RLHF") & pl.col("policy").eq("interactions")
    np.testing.assert_array_equal(found.filter(lossy)["predicted"], found.filter(lossy)["leading"])
    np.testing.assert_array_equal(found.filter(lossy)["trusted"], found.filter(lossy)["in_range"])
    by_law = found.filter(~lossy)
    assert (by_law["trusted"] == (by_law["predicted"] != 11.0)).all()


def test_no_law_is_asked_of_large_trees():
    tables = {cell.table for cell in phase_diagram.cells(Config(horizon=6))}
    assert tables == {"fits", "dimensions"}


def verdicts(tables):
    return {finding.claim: finding.verdict for finding in phase_diagram.findings(tables)}


def verdict(tables, words):
    (found,) = [verdict for claim, verdict in verdicts(tables).items() if words in claim]
    return found


def test_findings_of_records_that_follow_the_theory():
    tables = made_up_records(spread=0.01)
    assert verdict(tables, "hold the gold") == "supported"
    assert verdict(tables, "too simple for the gold") == "supported"
    assert verdict(tables, "measured regret over") == "supported"
    assert len(phase_diagram_records.disagreements(tables)) == 0
    assert len(phase_diagram_records.off_the_curve(tables)) == 0


def test_arms_of_a_point_have_the_same_policies():
    """DPO over few policies meets RLHF whose second stage reaches only those; else RLHF reaches them all."""
    paired = phase_diagram_records.gaps(made_up_records(seeds=2))
    assert len(paired) == 2 * 2 * 3 * 2 * 4
    through = paired.group_by("policy", "verifier_order").agg(pl.col("policy_order_rlhf").unique())
    assert {row[:2]: row[2] for row in through.iter_rows()} == {
        ("tabular", 1): [2],
        ("tabular", 2): [2],
        ("interactions", 1): [2],
        ("interactions", 2): [1],
    }


def test_findings_of_records_in_which_reinforcement_learning_loses():
    tables = made_up_records(dpo=0.1, spread=0.01)
    assert verdict(tables, "hold the gold") == "contradicted"
    against = phase_diagram_records.disagreements(tables).filter(kind="sign")
    assert set(against["verifier_order"]) == {1}
    assert (against["predicted_gap"] > 0).all()
    assert (against["high"] < 0).all()


def test_findings_that_seeds_disagree_about_are_undecided():
    assert verdict(made_up_records(dpo=0.15, spread=2.0), "hold the gold") == "undecided"


def test_a_class_off_the_common_curve_is_seen():
    tables = made_up_records(spread=0.01)
    odd = (pl.col("arm") == "DPO") & (pl.col("gold_order") == 2) & (pl.col("pairs") == 500)
    tables["fits"] = tables["fits"].with_columns(regret=pl.col("regret") * pl.when(odd).then(100).otherwise(1))
    off = phase_diagram_records.off_the_curve(tables)
    assert off["over_curve"][0] > 2
    assert off["gold_order"][0] == 2
    assert off["pairs"][0] == 500


def test_fits_that_did_not_converge_are_counted_and_not_averaged():
    tables = made_up_records(spread=0.01, seeds=33)
    failed = (pl.col("seed") == 0) & (pl.col("arm") == "DPO")
    tables["fits"] = tables["fits"].with_columns(
        status=pl.when(failed).then(pl.lit("not converged")).otherwise("status"),
        regret=pl.when(failed).then(1e9).otherwise("regret"),
    )
    points = phase_diagram_records.summary(phase_diagram_records.gaps(tables))
    assert set(points["failed"]) == {1}
    assert points["gap"].max() < 10
    assert verdict(tables, "hold the gold") == "supported"


def test_the_common_curve_of_points_on_a_curve_is_that_curve():
    x = np.array([3.0, 1.0, 2.0, 4.0])
    along, height = phase_diagram_records.common_curve(x, -x, increasing=False)
    np.testing.assert_array_equal(along, [1, 2, 3, 4])
    np.testing.assert_array_equal(height, [-1, -2, -3, -4])
    _, flat = phase_diagram_records.common_curve(x, x, increasing=False)
    np.testing.assert_allclose(flat, 2.5)


def test_figures_are_drawn_from_records():
    figures = phase_diagram_figures.draw(records())
    maps, tables = {"", "_horizons", "_collapse"}, {"_disagreements", "_off_the_curve"}
    assert set(figures) == {f"phase_diagram{name}" for name in maps | tables}
    for name in maps:
        drawn = figures[f"phase_diagram{name}"]
        drawn.canvas.draw()
        plt.close(drawn)
    for name in tables:
        assert {"pairs", "low", "high"} <= set(figures[f"phase_diagram{name}"].columns)


# Predictions


@pytest.mark.parametrize(
    "point",
    [
        Config(horizon=2, gold_order=1, verifier_order=1, pairs=4096),
        Config(horizon=2, gold_order=2, verifier_order=1, pairs=4096),
    ],
)
def test_predictions_are_measured_in_their_range(point):
    """Regrets of the tiny sweep, averaged over the same gold rewards, to within their sampling noise."""
    prediction = predict.predict(point, golds=TINY.seeds)
    assert prediction.in_range
    here = phase_diagram_records.gaps(records()).filter(
        policy="tabular", gold_order=point.gold_order, verifier_order=point.verifier_order, pairs=point.pairs
    )
    for arm, measured in ((prediction.dpo, here["regret"]), (prediction.rlhf, here["regret_rlhf"])):
        assert measured.mean() == pytest.approx(arm.regret.estimate, rel=0.75)
        assert arm.effective_dimension.seeds == TINY.seeds
    assert np.sign(here["gap"].mean()) == np.sign(prediction.gap.estimate)
    assert prediction.holds == (point.gold_order == 1)


def test_pairs_for_the_same_regret_are_the_ratio_of_dimensions():
    """Where both classes hold the gold reward and neither regret is that of the reference."""
    prediction = predict.predict(Config(horizon=2, gold_order=1, verifier_order=1, pairs=4096), golds=8)
    dimensions = [arm.effective_dimension.estimate for arm in (prediction.dpo, prediction.rlhf)]
    assert prediction.pairs.estimate == pytest.approx(4096 * dimensions[0] / dimensions[1], rel=0.2)
    assert prediction.verdict == "two-stage RLHF is better"
    equal = predict.predict(Config(horizon=2, gold_order=2, verifier_order=2, pairs=4096), golds=8)
    assert equal.pairs.estimate == pytest.approx(4096, rel=0.05)
    assert equal.verdict == "no difference"


def test_predictions_say_where_they_end():
    skewed = Config(horizon=2, gold_order=2, verifier_order=1, pairs=40960, reference_scale=4.0)
    prediction = predict.predict(skewed, golds=4)
    text = predict.validity(skewed, prediction)
    assert text.startswith("Out of range: at 40,960 pairs")
    assert f"4 of 4 for DPO, {prediction.rlhf.trusted} of 4 for RLHF" in text
    assert "too small for the gold reward" in text
    many = Config(horizon=2, gold_order=1, verifier_order=1, pairs=4096)
    assert predict.validity(many, predict.predict(many, golds=4)).startswith(
        "In range: the law of few pairs trusts itself at 4,096"
    )


def test_bad_predictions_are_named():
    with pytest.raises(ValueError, match="golds must be at least 4"):
        predict.predict(Config(), golds=1)
    with pytest.raises(ValueError, match="no such point: gold_order 5"):
        predict.predict(Config(gold_order=5))
