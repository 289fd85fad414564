"""What the explorer shows of each setting: regrets and their ratio over the number of pairs, predictions, the answer.

A setting is a value of each of ``AXES``. Its numbers are those of the findings' rules (``kit.intervals``), and so is
what they decide: nothing here or in the page reads a point estimate alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from experiments.kit.backends import named
from experiments.kit.findings import EQUAL_LOG, EQUAL_TIMES, verdict
from experiments.kit.intervals import LEAST, Interval, over_seeds, ratio_over_seeds
from experiments.kit.per_seed import paired, usable
from experiments.kit.points import Records
from experiments.kit.problems import TRAINED
from experiments.questions.phase_diagram_records import RANGE, gaps, leading_regret

AXES = {  # columns that make a setting, and what their controls are called
    "experiment": "experiment",
    "task": "gold reward",
    "vocabulary": "vocabulary V",
    "horizon": "horizon H",
    "policies": "policies",
    "gold_order": "order of the gold reward",
    "verifier_order": "order of the reward models (verifiers)",
    "beta": "β",
    "temperature": "noise of the labels",
    "reference_scale": "reference, s.d. of its logits (0: uniform)",
}
TASK = ["task", "vocabulary", "horizon", "gold_order", "beta", "temperature", "reference_scale"]
MEASURED = ["verifier_order", "policies", "pairs", "seed", "dpo", "rlhf", "dpo_predicted", "rlhf_predicted"]
ALL_POLICIES = "all (tabular)"

RLHF, DPO, EQUAL, UNDECIDED = "RLHF", "DPO", "equal", "undecided"
DECIDED = {"different: above": RLHF, "different: below": DPO, "equal": EQUAL}
WORDS = {
    RLHF: "two-stage RLHF is better",
    DPO: "DPO is better",
    EQUAL: f"the two are equal within a factor of {EQUAL_TIMES:g}",
    UNDECIDED: "undecided",
}


class Point(NamedTuple):
    """What was measured and predicted with one number of pairs; predictions are NaN where there are none.

    Attributes:
      dpo, rlhf: regrets in nats, means over the seeds that have both.
      ratio: regret of DPO over that of RLHF, of geometric means.
      predicted: of ``dpo``, ``rlhf`` and ``ratio``.
    """

    pairs: int
    dpo: Interval
    rlhf: Interval
    ratio: Interval
    predicted: tuple[float, float, float]

    @property
    def better(self) -> str:
        """Which method is better, by the interval of the ratio alone; ``equal`` is within a factor of EQUAL_TIMES."""
        told = verdict(self.ratio, math.exp(-EQUAL_LOG), math.exp(EQUAL_LOG), "at")
        if told not in DECIDED:
            told = verdict(self.ratio, 1 / EQUAL_TIMES, EQUAL_TIMES, "at")
            return EQUAL if told == "equal" else UNDECIDED
        return DECIDED[told]


class Setting(NamedTuple):
    """A value of each axis, and the points over the number of pairs, ascending."""

    at: dict[str, Any]
    points: list[Point]

    @property
    def answer(self) -> str:
        """Which method, from how many pairs: a sentence."""
        runs = [list(run) for _, run in groupby(self.points, key=lambda point: point.better)]
        told = "; ".join(f"{WORDS[run[0].better]} {_where(run, self.points)}" for run in runs)
        seeds = min(point.ratio.seeds for point in self.points)
        few = f" There are {seeds} seeds; a verdict needs {LEAST}." if seeds < LEAST else ""
        return f"{told[0].upper()}{told[1:]}.{few}"


def _where(run: Sequence[Point], points: Sequence[Point]) -> str:
    """The numbers of pairs of some neighbouring points among all of a setting."""
    first, last = run[0].pairs, run[-1].pairs
    if len(run) == len(points) > 1:
        return f"at every number of pairs that was measured, {first:,} to {last:,}"
    if len(run) == 1:
        return f"at {first:,} pairs"
    if run[0] is points[0]:
        return f"up to {last:,} pairs"
    return f"from {first:,} pairs on" if run[-1] is points[-1] else f"from {first:,} to {last:,} pairs"


def settings(records: Mapping[str, Records]) -> list[Setting]:
    """All settings of the records of some questions; the first one is where the explorer starts."""
    frames = [
        source(records[name]).select(pl.lit(label(name)).alias("experiment"), *TASK, *MEASURED)
        for name, source in SOURCES.items()
        if name in records
    ]
    if not frames:
        return []
    rows = pl.concat(frames, how="vertical_relaxed").sort("pairs", "seed")
    found = [
        Setting(
            dict(zip(AXES, at, strict=True)),
            [_point(pairs, here) for (pairs,), here in of_setting.group_by("pairs", maintain_order=True)],
        )
        for at, of_setting in rows.group_by(list(AXES), maintain_order=True)
    ]
    return sorted(found, key=_place)


def label(name: str) -> str:
    """What a question on its backend is called."""
    return name.replace("_", " ").replace("-transformer", ", transformers")


def _place(setting: Setting) -> tuple:
    """The most telling first: all policies, a verifier that just holds the gold reward, and the plainest rest."""
    at = setting.at
    return (
        [label(name) for name in SOURCES].index(at["experiment"]),
        at["task"] != "interactions",
        at["policies"] != ALL_POLICIES,
        at["verifier_order"] != at["gold_order"],
        at["reference_scale"],
        abs(math.log(at["beta"])),
        -at["horizon"],
        *(at[axis] for axis in AXES),
    )


def _point(pairs: int, rows: pl.DataFrame) -> Point:
    """One number of pairs, from one row a seed."""
    measured = rows["dpo"].to_numpy(), rows["rlhf"].to_numpy()
    both = np.isfinite(measured).all(axis=0)
    dpo, rlhf = (np.where(both, regrets, np.nan) for regrets in measured)
    predicted = [rows[name].to_numpy() for name in ("dpo_predicted", "rlhf_predicted")]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, predicted_ratio = np.log(dpo / rlhf), np.log(predicted[0] / predicted[1])
    expected = _mean(predicted[0]), _mean(predicted[1]), math.exp(_mean(predicted_ratio))
    return Point(pairs, over_seeds(dpo), over_seeds(rlhf), ratio_over_seeds(ratio), expected)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _phase_diagram(records: Records) -> pl.DataFrame:
    classes = pl.format("interactions up to order {}", "policy_order")
    return gaps(records).with_columns(
        policies=pl.when(policy="tabular").then(pl.lit(ALL_POLICIES)).otherwise(classes),
        dpo="regret", rlhf="regret_rlhf", dpo_predicted="predicted", rlhf_predicted="predicted_rlhf",
    )  # fmt: skip


def _sample_complexity(records: Records, policies: str = ALL_POLICIES) -> pl.DataFrame:
    """Its arms in columns; of its verifiers those of the gold order and the full tables have a prediction."""
    task = ["horizon", "gold_order", "beta", "temperature", "reference_scale"]
    classes = records["dimensions"].select(*task, "seed", "order", dimension=usable(pl.col("effective_dimension")))
    fits = records["fits"].join(classes, on=[*task, "seed", "order"], how="left", maintain_order="left")
    fits = fits.with_columns(regret=usable(pl.col("regret")), predicted=_leading(fits, "dimension"))
    both = paired(fits.filter(arm="RLHF"), fits.filter(arm="DPO"), [*task, "pairs", "seed"], "_dpo", shared=True)
    return both.select(
        pl.lit("interactions").alias("task"), pl.lit(None, pl.Int32).alias("vocabulary"), *task,
        "pairs", "seed", verifier_order="order", policies=pl.lit(policies), dpo="regret_dpo", rlhf="regret",
        dpo_predicted="predicted_dpo", rlhf_predicted="predicted",
    )  # fmt: skip


def _series(records: Records, policies: str = ALL_POLICIES) -> pl.DataFrame:
    """Those of ``kit.gap``: verifiers are of the gold reward's order."""
    rows = records["gaps"]
    return rows.with_columns(
        task=pl.lit("interactions"), verifier_order="gold_order", policies=pl.lit(policies),
        dpo=usable(pl.col("dpo_regret")), rlhf=usable(pl.col("rlhf_regret")),
        dpo_predicted=_leading(rows, "dpo_dimension"), rlhf_predicted=_leading(rows, "rlhf_dimension"),
    )  # fmt: skip


def _leading(rows: pl.DataFrame, dimension: str) -> pl.Series:
    """The prediction of classes that hold the gold reward, where the reference's regret, its cap, is not recorded.

    There is none where the pairs are too few for the leading order, as it would be far above any regret.
    """
    enough = TRAINED * pl.col("pairs") > RANGE * pl.col("effective_dimension")
    known = {"floor": 0.0, "reference_regret": math.inf}
    found = rows.select("pairs", effective_dimension=dimension, **{name: pl.lit(x) for name, x in known.items()})
    return found.select(pl.when(enough).then(leading_regret())).to_series()


_TRANSFORMERS = {"policies": "transformers"}
SOURCES: dict[str, Callable[[Records], pl.DataFrame]] = {  # what brings the records of each question to one form
    "phase_diagram": _phase_diagram,
    "sample_complexity": _sample_complexity,
    "h6b_horizon": _series,
    "h6c_verifier_order": _series,
    named("sample_complexity", "transformer"): partial(_sample_complexity, **_TRANSFORMERS),
    named("h6b_horizon", "transformer"): partial(_series, **_TRANSFORMERS),
    named("h6c_verifier_order", "transformer"): partial(_series, **_TRANSFORMERS),
}
