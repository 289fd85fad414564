"""``python -m experiments predict``: two-stage RLHF against offline DPO at one point, from theory alone.

Nothing is fitted: the answer rests on d_eff of both classes and on the regret that a class too small cannot get
under, for a few random gold rewards of the family (see ``phase_diagram_records.predicted_regret``).
"""

from functools import cache, partial
from typing import Annotated, NamedTuple

import jax
import numpy as np
import polars as pl
import tyro
from rich.markup import escape
from rich.table import Table

from experiments.kit.findings import EQUAL
from experiments.kit.intervals import Interval, over_seeds, ratio_over_seeds
from experiments.kit.per_seed import usable
from experiments.kit.problems import TRAINED
from experiments.kit.terminal import console, explain, table
from experiments.questions import phase_diagram, phase_diagram_records
from experiments.questions.phase_diagram import Config, Program
from experiments.questions.phase_diagram_records import RANGE
from gvgap_jax.sweep.cells import Cell


class Arm(NamedTuple):
    """The prediction of one arm, averaged over gold rewards.

    Attributes:
      effective_dimension: d_eff of what it fits.
      floor: regret with infinitely many pairs, nats; 0 where its class holds the gold reward.
      regret: predicted for the pairs asked about, nats.
      from_pairs: labelled pairs from which the leading order is trusted, RANGE fitted ones a dimension.
    """

    effective_dimension: Interval
    floor: Interval
    regret: Interval
    from_pairs: float


class Prediction(NamedTuple):
    """Both arms of one point, with intervals over gold rewards.

    Attributes:
      dpo, rlhf: the arms.
      gap: regret of DPO minus that of two-stage RLHF, nats.
      pairs: that DPO needs for RLHF's regret, a geometric mean; not finite where it cannot reach it.
      holds: RLHF's classes hold every gold reward.
      in_range: the pairs are enough for the leading order, for both arms.
    """

    dpo: Arm
    rlhf: Arm
    gap: Interval
    pairs: Interval
    holds: bool
    in_range: bool

    @property
    def verdict(self) -> str:
        """The answer in a word, from the interval of the gap."""
        if self.gap.low > EQUAL:
            return "two-stage RLHF is better"
        if self.gap.high < -EQUAL:
            return "DPO is better"
        return "no difference" if abs(self.gap.estimate) < EQUAL else "it depends on the gold reward"


def answer(config: Annotated[Config, tyro.conf.arg(name="")], golds: int = 8) -> None:
    """Predict which method wins, and by how much, from theory alone.

    Two-stage RLHF against offline DPO at one point of the phase diagram; nothing is fitted.

    Args:
      config: the point that is asked about.
      golds: random gold rewards that the answer is averaged over.
    """
    show(config, predict(config, golds))


def predict(config: Config, golds: int = 8) -> Prediction:
    """The prediction of one point, averaged over so many random gold rewards.

    Raises:
      ValueError: there are fewer than 2 gold rewards, or the orders are beyond what the tree has.
    """
    if golds < 4:
        raise ValueError(f"golds must be at least 4, or there is no interval over them, got {golds}.")
    classes = [cell for cell in phase_diagram.cells(config) if cell.table == "dimensions"]
    if not classes:
        raise ValueError(
            f"no such point: gold_order {config.gold_order}, verifier_order {config.verifier_order} and policy_order "
            f"{config.policy_order} must be possible with {config.horizon} tokens of {config.vocabulary}."
        )
    dpo, rlhf = (_theory(cell, golds, config.pairs) for cell in classes)
    reached = rlhf["predicted"] - dpo["floor"]
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(reached > 0, dpo["effective_dimension"] / (2 * TRAINED * reached), np.inf)
        pairs = ratio_over_seeds(np.log(needed))
    arms = [_arm(theory) for theory in (dpo, rlhf)]
    return Prediction(
        *arms,
        gap=over_seeds(dpo["predicted"] - rlhf["predicted"]),
        pairs=pairs,
        holds=bool((rlhf["floor"] < phase_diagram_records.HOLDS * rlhf["reference_regret"]).all()),
        in_range=config.pairs >= max(arm.from_pairs for arm in arms),
    )


def _theory(cell: Cell, golds: int, pairs: int) -> dict[str, np.ndarray]:
    """Predictions of one class, an array over gold rewards each; NaN where they did not converge."""
    columns = {name: np.full(golds, value) for name, value in cell.numbers.items()} | {"seed": np.arange(golds)}
    assert isinstance(cell.program, Program)
    outputs = jax.device_get(_compiled(cell.program)(columns))
    frame = pl.DataFrame({name: np.asarray(values) for name, values in outputs.items()})
    numbers = pl.exclude("converged").cast(pl.Float64)
    status = pl.when("converged").then(pl.lit("ok")).otherwise(pl.lit("not converged"))
    frame = frame.select(numbers, status=status).with_columns(pairs=pl.lit(pairs))
    frame = frame.with_columns(predicted=phase_diagram_records.predicted_regret())
    kept = frame.select(usable(pl.exclude("status")))
    return {name: kept[name].to_numpy() for name in kept.columns}


@cache
def _compiled(program: Program):
    """Both arms of tabular policies share one program."""
    return jax.jit(partial(jax.lax.map, partial(phase_diagram.run, program)))


def _arm(theory: dict[str, np.ndarray]) -> Arm:
    dimension = over_seeds(theory["effective_dimension"])
    return Arm(
        dimension, over_seeds(theory["floor"]), over_seeds(theory["predicted"]), RANGE * dimension.estimate / TRAINED
    )


def show(config: Config, prediction: Prediction) -> None:
    """Print a prediction: both arms, the gap, the pairs DPO needs, and how far to trust them."""
    trust = "" if prediction.in_range else " (out of range, see below)"
    rows = table(f"theory at {config.pairs:,} pairs: {prediction.verdict}{trust}", "", "estimate", "95 % interval")
    for name, arm in (("DPO", prediction.dpo), ("RLHF", prediction.rlhf)):
        _row(rows, f"{name}: d_eff", arm.effective_dimension)
        _row(rows, f"{name}: floor [nats]", arm.floor)
        _row(rows, f"{name}: regret [nats]", arm.regret)
    _row(rows, "regret of DPO less that of RLHF [nats]", prediction.gap)
    _row(rows, "pairs that DPO needs for RLHF's regret", prediction.pairs)
    console.print(rows)
    explain("regret", "d_eff", "floor")
    console.print(validity(config, prediction), highlight=False)


def _row(rows: Table, name: str, interval: Interval) -> None:
    if not interval.seeds:
        rows.add_row(escape(name), "out of reach", "")
        return
    some = f" ({interval.failed} golds: none)" if interval.failed else ""
    estimate, low, high = (_number(value) for value in interval[:3])
    rows.add_row(escape(name), estimate, f"{low} to {high}{some}")


def _number(value: float) -> str:
    """Four digits; a floor of 0 is met to the solver's tolerance only."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 6) + 0.0:.4g}"


def validity(config: Config, prediction: Prediction) -> str:
    """Whether the numbers can be trusted, and why not."""
    enough = max(arm.from_pairs for arm in (prediction.dpo, prediction.rlhf))
    needs = (
        f"d_eff / (2n) can be trusted from about {enough:,.0f} pairs on (fitted pairs over d_eff: at least {RANGE:g})"
    )
    if prediction.in_range:
        sentences = [f"In range: {config.pairs:,} pairs are enough; {needs}."]
    else:
        sentences = [
            f"Out of range: {config.pairs:,} pairs are too few; {needs}. With fewer pairs the ridge penalty decides: "
            "regrets are smaller than predicted, and even the sign of the gap may be wrong."
        ]
    if not prediction.holds:
        sentences.append(
            "The reward models, or the policies of the second stage, are too small for the gold reward: RLHF's regret "
            "ends at its floor, however many pairs there are."
        )
    return " ".join(sentences)
