"""Every control of every question is seen to fail: what it controls for is broken, and it no longer passes.

Records are those of the tiny presets, repeated until there are as many seeds as a verdict needs. (The token tasks'
controls are broken in ``test_token_tasks``.)
"""

import functools
import json

import polars as pl
import pytest

from experiments.questions import questions
from gvgap_jax.sweep import load
from tests.house.golden_plans import GOLDEN

SEEDS = 18  # so many that every control can be decided, and even: two seeds are repeated


def as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def shifted(column: str, by: float = 1.0, **where):
    """Adds to a column of some rows: as if their arm saw, or were, something else."""

    def of(frame: pl.DataFrame) -> pl.DataFrame:
        here = pl.all_horizontal(pl.lit(True), *(pl.col(name) == value for name, value in where.items()))
        return frame.with_columns(pl.when(here).then(pl.col(column) + by).otherwise(pl.col(column)).alias(column))

    return of


def put(**columns: pl.Expr | float):
    """Columns with other values: what they are where nothing is wrong, or where nothing moves them."""
    values = {name: value if isinstance(value, pl.Expr) else pl.lit(value) for name, value in columns.items()}
    return lambda frame: frame.with_columns(**values)


NOISE = 1e-3 * (-1.0) ** pl.col("seed")  # so that no interval is a point
FALLING = pl.col("prompts") ** -0.5 * NOISE.exp()
H2 = "h2_regularisation"

NETWORKS = ("DPO", "RLHF, final state", "RLHF, token sum")
IMPLICIT = "RLHF, implicit reward"
SAME_READ_OUT = put(**{f"{IMPLICIT}: regret": pl.col("DPO: regret") * NOISE.exp()})
NO_GAIN = put(labels=pl.lit("coin"), reference_regret=1 + NOISE, **{f"{arm}: regret": 1.0 for arm in NETWORKS})
SECOND_STAGE = put(**{f"{arm}: exact_regret": pl.col(f"{arm}: regret") for arm in NETWORKS[1:]})

# A control, by its question and a part of its claim: its table, what breaks it, and how its rows are where it holds
# (the tiny records themselves for an equality; for an average over seeds, of which they have two, made-up values).
BREAKS = {
    ("equivalence", "apart, where they must part"): ("distances", put(kl=0.0)),
    ("estimators", "slope"): ("estimates", put(error=pl.col("prompts") ** -0.1 * NOISE.exp()), put(error=FALLING)),
    ("estimators", "bias"): ("estimates", shifted("along", 0.5), put(along=NOISE)),
    ("h1_information", "same penalty, no sample"): ("fits", shifted("regret", responses=0)),
    (H2, "reverse KL, both arms"): ("fits", shifted("objective", arm="RLHF", regulariser="reverse KL")),
    (H2, "forward KL, both arms"): ("fits", shifted("objective", arm="RLHF", regulariser="forward KL")),
    (H2, "none, both arms"): ("fits", shifted("objective", arm="RLHF", regulariser="none")),
    ("h3_optimisation", "prompts with pairs"): ("fits", shifted("regret_with_pairs", arm="RLHF", augmented=1)),
    ("h3_optimisation", "as rich as policies"): ("fits", shifted("regret_all", arm="RLHF", augmented=1)),
    ("h4_data", ""): ("fits", shifted("regret", arm="restricted MLE")),
    ("h5_generalisation", "in distribution"): (
        "fits", shifted("likelihood_reference", initialisation=1), put(likelihood_reference=0.6 + NOISE),
    ),
    ("h5_generalisation", "gold reward of the best"): (
        "fits", shifted("best_of_32", initialisation=1), put(best_of_32=1 + NOISE),
    ),
    ("h6a_model_sizes", "worst of n"): (
        "fits", shifted("gold_reward_best", informed=0), put(gold_reward_best=pl.col("gold_reward_worst") + NOISE),
    ),
    ("h6b_horizon", ""): ("gaps", shifted("restricted_regret")),
    ("few_pairs", "another seed's tasks"): (
        "predictions", put(typical=1.0),
    ),
    ("h6c_verifier_order", ""): ("gaps", shifted("restricted_regret")),
    ("main_table", ""): ("tables", shifted("restricted MLE, optimum: win_rate", 0.1)),
    ("phase_diagram", ""): ("fits", shifted("regret", arm="RLHF")),
    ("prior_geometry", "must not be lower"): (
        "fits", shifted("regret", -0.5, geometry="random features"), put(regret=NOISE.exp()),
    ),
    ("prior_geometry", "one degree ridge"): ("fits", shifted("regret", method="RLHF", order=2)),
    ("prior_geometry", "decay 0"): ("fits", shifted("regret", decay=0.0)),
    ("prior_geometry", "along interactions"): ("fits", shifted("regret", geometry="random features")),
    ("same_backbone", "same network and read-out"): ("fits", shifted(f"{IMPLICIT}: regret", 0.5), SAME_READ_OUT),
    ("same_backbone", "DPO removes"): ("fits", put(**{"DPO: regret": 0.5, "reference_regret": 1 + NOISE}), NO_GAIN),
    ("same_backbone", "final state removes"): (
        "fits", put(**{"RLHF, final state: regret": 0.5, "reference_regret": 1 + NOISE}), NO_GAIN,
    ),
    ("same_backbone", "token sum removes"): (
        "fits", put(**{"RLHF, token sum: regret": 0.5, "reference_regret": 1 + NOISE}), NO_GAIN,
    ),
    ("same_backbone", "final state: largest"): ("fits", shifted("RLHF, final state: exact_regret"), SECOND_STAGE),
    ("same_backbone", "token sum: largest"): ("fits", shifted("RLHF, token sum: exact_regret"), SECOND_STAGE),
    ("same_backbone", "KL from the texts"): ("fits", put(distance=0.1), put(distance=1e-6)),
    ("rival_coverage", "penalty chosen"): (
        "fits", shifted("hole_mass", 0.3, method="DPO"), put(hole_mass=pl.col("optimal_hole_mass") + NOISE),
    ),
    ("rival_coverage", "penalty next to none"): (
        "fits", shifted("hole_mass", 0.3, method="DPO"), put(hole_mass=pl.col("optimal_hole_mass") + NOISE),
    ),
    ("rival_implicit", "difference of accuracy on unseen"): (
        "tokens", shifted("accuracy_tested", -0.3, arm="explicit", similarity=0.0),
    ),
    ("rival_implicit", "largest |log of d_eff"): (
        "tokens", shifted("effective_dimension_trained", arm="explicit"), put(effective_dimension_trained=1.0),
    ),
    ("rival_implicit", "trained as often as the others"): (
        "tokens", shifted("accuracy_tested", -0.3, arm="explicit"), put(accuracy_tested=0.9 + NOISE),
    ),
    ("rival_implicit", "writes a cycle half of the time"): (
        "cycles", shifted("mass", -0.5, arm="DPO"), put(accuracy=0.99, mass=0.98 + NOISE),
    ),
    ("rival_misspecification", "three arms"): ("arms", shifted("gold_reward_rlhf", free=1)),
    ("rival_misspecification", "infinitely many pairs"): ("limits", shifted("regret_rlhf")),
    ("rival_misspecification", "any number of pairs"): ("fits", shifted("regret_rlhf")),
    ("rival_overoptimisation", ""): ("gold", shifted("best-of-n 1024 gold", -1.0)),
    ("rival_plateau", ""): ("fits", shifted("reverse_kl", arm="one-stage likelihood")),
    ("rival_sparse", "log of sparse over dense"): ("fits", shifted("regret", arm="sparse")),
    ("rival_sparse", "log of known over dense"): ("fits", shifted("regret", arm="known")),
    ("sample_complexity", ""): ("fits", shifted("regret", arm="restricted MLE")),
}  # fmt: skip
BROKEN_ELSEWHERE = {"token_tasks"}


@pytest.fixture(scope="session")
def many_seeds(records):
    """Tables of a question's tiny records, with their two seeds repeated."""

    @functools.cache
    def of(name):
        folder = records(name)
        tables = sorted({path.name.rpartition("-")[0] for path in folder.glob("*.parquet")})
        return {table: _repeated(load(folder, table)) for table in tables}

    return of


def _repeated(frame: pl.DataFrame) -> pl.DataFrame:
    copies = [frame.with_columns((pl.col("seed") + 2 * copy).cast(frame["seed"].dtype)) for copy in range(SEEDS // 2)]
    return pl.concat(copies)


def controls_of(name, tables, part=""):
    rows = [row for row in questions()[name].findings(tables) if row.control and part in row.claim]
    return {row.claim: row.passes for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), BREAKS, ids=lambda part: part.replace(" ", "_")[:40] or "its_control")
def test_a_control_passes_where_it_holds_and_not_where_it_is_broken(many_seeds, name, part):
    table, broken, *right = BREAKS[name, part]
    tables = dict(many_seeds(name))
    tables[table] = next(iter(right), as_it_is)(tables[table])
    whole = controls_of(name, tables, part)
    assert whole
    assert all(whole.values()), whole
    tables[table] = broken(tables[table])
    after = controls_of(name, tables, part)
    assert whole.keys() == after.keys()
    assert not any(after.values()), after


# Every question whose records people keep; one that somebody is writing is not among them yet.
KEPT = {key.split()[0] for key in json.loads(GOLDEN.read_text(encoding="utf-8"))["plans"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KEPT - BROKEN_ELSEWHERE))
def test_no_control_is_left_out(many_seeds, name):
    parts = [part for question, part in BREAKS if question == name]
    assert all(any(part in claim for part in parts) for claim in controls_of(name, many_seeds(name)))
