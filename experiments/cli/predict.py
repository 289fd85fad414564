"""``python -m experiments predict``: two-stage RLHF against offline DPO at one point, from theory alone.

Nothing is fitted: the answer rests on the law of few pairs (``gvgap_jax.prediction``), for a few random gold rewards of
the family.
"""

from functools import cache, partial
from typing import Annotated, NamedTuple

import jax
import numpy as np
import tyro
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from experiments.kit import few_pairs
from experiments.kit.findings import EQUAL
from experiments.kit.intervals import Interval, over_seeds, ratio_over_seeds
from experiments.kit.problems import TRAINED, task_of
from experiments.kit.terminal import console, explain, table
from experiments.questions import phase_diagram
from experiments.questions.phase_diagram import AT_DATA, Config, Program
from experiments.questions.phase_diagram_records import HOLDS
from gvgap_jax import TokenTree

DRAWN = 0.05  # of a regret: what the law's draws leave, and no difference
STEPS = 2  # towards the number of pairs that has a given regret, from where the law of many pairs puts it


class Arm(NamedTuple):
    """The prediction of one arm, averaged over gold rewards.

    Attributes:
      effective_dimension: d_eff of what it fits.
      floor: regret with infinitely many pairs, nats; 0 where its class holds the gold reward.
      regret: predicted for the pairs asked about, nats.
      trusted: gold rewards for which the law trusts itself.
    """

    effective_dimension: Interval
    floor: Interval
    regret: Interval
    trusted: int


class Prediction(NamedTuple):
    """Both arms of one point, with intervals over gold rewards.

    Attributes:
      dpo, rlhf: the arms.
      gap: regret of DPO minus that of two-stage RLHF, nats.
      pairs: that DPO needs for RLHF's regret, a geometric mean; not finite where it cannot reach it.
      holds: RLHF's classes hold every gold reward.
      golds: number of the gold rewards.
    """

    dpo: Arm
    rlhf: Arm
    gap: Interval
    pairs: Interval
    holds: bool
    golds: int

    @property
    def in_range(self) -> bool:
        """Whether the law trusts itself for every gold reward, in both arms."""
        return min(self.dpo.trusted, self.rlhf.trusted) == self.golds

    @property
    def verdict(self) -> str:
        """The answer in a word, from the interval of the gap."""
        margin = max(EQUAL, DRAWN * self.dpo.regret.estimate)
        if self.gap.low > margin:
            return "two-stage RLHF is better"
        if self.gap.high < -margin:
            return "DPO is better"
        return "no difference" if abs(self.gap.estimate) < margin else "it depends on the gold reward"


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
      ValueError: there are fewer than 4 gold rewards, or the orders are beyond what the tree has.
    """
    if golds < 4:
        raise ValueError(f"golds must be at least 4, or there is no interval over them, got {golds}.")
    classes = [cell for cell in phase_diagram.cells(config) if cell.table == "dimensions"]
    if not classes:
        raise ValueError(
            f"no such point: gold_order {config.gold_order}, verifier_order {config.verifier_order} and policy_order "
            f"{config.policy_order} must be possible with {config.horizon} tokens of {config.vocabulary}."
        )
    known = [_known(cell, golds) for cell in classes]
    policy_order = config.horizon if config.policy == "tabular" else config.policy_order
    dpo = _Asked(config, 0 if config.policy == "tabular" else policy_order, None)
    held = policy_order < config.verifier_order
    rlhf = _Asked(config, config.verifier_order, policy_order if held else None)
    rows = [
        _of_gold(dpo, rlhf, gold, known[0]["effective_dimension"][gold], known[0]["floor"][gold])
        for gold in track(
            range(golds), "gold rewards", console=console, transient=True, disable=not console.is_terminal
        )
    ]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    arms = [
        Arm(
            over_seeds(classes["effective_dimension"]),
            over_seeds(classes["floor"]),
            over_seeds(columns[name]),
            int(columns[f"{name} trusted"].sum()),
        )
        for name, classes in zip(("dpo", "rlhf"), known, strict=True)
    ]
    return Prediction(
        *arms,
        gap=over_seeds(columns["dpo"] - columns["rlhf"]),
        pairs=ratio_over_seeds(np.log(columns["pairs"])),
        holds=bool((known[1]["floor"] < HOLDS * known[1]["reference_regret"]).all()),
        golds=golds,
    )


class _Asked(NamedTuple):
    """An arm at a point: the order of what is fitted, 0 for all policies, and of the policies that follow it."""

    config: Config
    order: int
    followed: int | None


def _of_gold(dpo: _Asked, rlhf: _Asked, gold: int, dimension: float, floor: float) -> dict[str, float]:
    """Both regrets with one gold reward, whether they are trusted, and the pairs that DPO needs for RLHF's.

    Those begin where the law of many pairs puts them, floor + dimension / (2n), and are corrected by what the law of
    few says of as many; without end where DPO's floor is above RLHF's regret, no number where that is not known.
    """
    pairs = dpo.config.pairs
    own, other = _law(dpo)(gold, pairs), _law(rlhf)(gold, pairs)
    wanted, needed = float(other["expected"]), np.nan if np.isnan(floor) else np.inf
    if wanted > floor:
        needed = dimension / (2 * TRAINED * (wanted - floor)) if np.isfinite(dimension) else float(pairs)
        for _ in range(STEPS):
            reached = float(_law(dpo)(gold, needed)["expected"])
            needed *= max(reached - floor, 0.0) / (wanted - floor)
            if abs(reached - wanted) < DRAWN * wanted:
                break
    found = {"dpo": float(own["expected"]), "rlhf": wanted, "pairs": needed if needed > 0 else np.nan}
    return found | {"dpo trusted": bool(own["trusted"]), "rlhf trusted": bool(other["trusted"])}


def _known(cell, golds: int) -> dict[str, np.ndarray]:
    """What is known of one class, an array over gold rewards each; NaN where the solver did not converge."""
    columns = {name: np.full(golds, value) for name, value in cell.numbers.items()} | {"seed": np.arange(golds)}
    found = jax.device_get(_compiled(cell.program)(columns))
    return {name: np.where(found["converged"], values, np.nan) for name, values in found.items()}


@cache
def _compiled(program: Program):
    """Both arms of tabular policies share one program."""
    return jax.jit(partial(jax.lax.map, partial(phase_diagram.run, program)))


@cache
def _law(asked: _Asked):
    """The law of few pairs of an arm: number of the gold reward, and of the pairs -> what it says."""
    config, tree = asked.config, TokenTree(asked.config.vocabulary, asked.config.horizon)
    complexity = None if config.task in AT_DATA else config.gold_order
    cell = phase_diagram.numbers_of_task(config)

    def law(gold, pairs):
        task, _, _ = task_of(cell | {"seed": gold}, tree, config.task, complexity)
        second_stage = None if asked.followed is None else few_pairs.features(tree, asked.followed)
        return few_pairs.predicted(few_pairs.fitted(tree, task, asked.order), task, pairs, second_stage)

    return jax.jit(law)


def show(config: Config, prediction: Prediction) -> None:
    """Print a prediction: both arms, the gap, the pairs DPO needs, and how far to trust them."""
    trust = "" if prediction.in_range else " (out of range, see below)"
    rows = table(f"theory at {config.pairs:,} pairs: {prediction.verdict}{trust}", "", "estimate", "95 % interval")
    for name, arm in _arms(prediction):
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
    """Four digits; a floor of 0 is met to the solver's tolerance only, and has no interval."""
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 6) + 0.0:.4g}"


def validity(config: Config, prediction: Prediction) -> str:
    """Whether the numbers can be trusted, and why not."""
    if prediction.in_range:
        sentences = [f"In range: the law of few pairs trusts itself at {config.pairs:,} pairs for every gold reward."]
    else:
        some = [f"{arm.trusted} of {prediction.golds} for {name}" for name, arm in _arms(prediction)]
        sentences = [
            f"Out of range: at {config.pairs:,} pairs the law of few pairs does not trust itself for every gold reward "
            f"({', '.join(some)}), as where some responses are hardly ever drawn by the reference policy."
        ]
    if not prediction.holds:
        sentences.append(
            "The reward models, or the policies of the second stage, are too small for the gold reward: RLHF's regret "
            "ends at its floor, however many pairs there are."
        )
    return " ".join(sentences)


def _arms(prediction: Prediction) -> list[tuple[str, Arm]]:
    return [("DPO", prediction.dpo), ("RLHF", prediction.rlhf)]
