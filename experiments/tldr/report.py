"""What a run of the recipe found: win rates with intervals, a table, a figure and a page."""

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from rich.table import Table

from experiments import tldr
from experiments.kit.findings import SIMULTANEOUS, Finding, Question, decided, tally
from experiments.kit.intervals import MANY, Estimate, mean
from experiments.kit.per_seed import of_values
from experiments.kit.plots import BLACK, DPO, RLHF, THIRD, name_axes, panels, save
from experiments.kit.terminal import console
from experiments.report.evidence import Evidence, Listing, Picture, png_of, words_of
from experiments.report.page import page
from experiments.tldr.records import Records, evaluated, unanswered
from experiments.tldr.settings import AGAIN, BEST_OF_N
from gvgap_jax.runtime.files import Folder

QUESTION = Question(
    "main table",
    "On the same pairs, RL from a learned reward model beats direct offline likelihood (DPO).",
    "win rates at 1.4B: SFT 26.2, DPO 49.7, online DPO from SFT 56.1, from DPO 59.3 (arXiv 2503.01067)",
    "win rates of SFT, DPO and online DPO",
)
COMPARED = (
    ("online_from_sft", "dpo"),
    ("online_from_dpo", "dpo"),
    (BEST_OF_N, "dpo"),
    ("dpo", "sft"),
)
EQUAL_POINTS = 5.0  # margin of the controls, of win rate: below the smallest gap that the paper calls one, 6.4
CAPTION = (
    "Share of held-out prompts on which an arm's answer is judged better than the human one, ties one half, by judge; "
    "bars are 95 % intervals {over}. The dashed line is a tie with the human."
)


def over(tables: Records) -> str:
    """What the intervals are over: seeds, or prompts where there is one seed only."""
    seeds = tables["answers"]["seed"].n_unique()
    return f"over {seeds} seeds" if seeds > 1 else "over prompts, of one training run: they say nothing of other seeds"


def estimate(rows: pl.DataFrame, value: pl.Expr) -> Estimate:
    """A mean: over seeds if there are several, else over the rows, which are prompts."""
    if rows["seed"].n_unique() > 1:
        # NaN is what no judge could decide: it stays out of a seed's mean, and is counted in the table of verdicts.
        means = rows.group_by("seed").agg(value.fill_nan(None).mean().alias("mean")).sort("seed")["mean"]
        return mean(of_values(means.fill_null(float("nan")).to_numpy()))
    return Estimate(of_values(rows.select(value.alias("value"))["value"].to_numpy(), "prompts"), MANY)


def findings(tables: Records) -> list[Finding]:
    """Paired differences of win rates by judge, of accuracies on held-out pairs, and the control."""
    verdicts, rows = tables["verdicts"], []
    for judge in verdicts["judge"].unique(maintain_order=True):
        for arm, other in (*COMPARED, (AGAIN, "sft")):
            both = _paired(verdicts.filter(judge=judge), arm, other)
            if not len(both):
                continue
            control = arm == AGAIN
            claim = f"{_words(judge)}: win rate of {_words(arm)} less that of {_words(other)}"
            difference = 100 * (pl.col("win") - pl.col("win_other"))
            direction = "at" if control else "above"
            rows.append(
                Finding(claim, estimate(both, difference), "points", 0.0, direction, control, margin=EQUAL_POINTS)
            )
    return decided(rows + _of_scores(tables["answers"]) + _of_pairs(tables["pairs"]) + _of_judges(verdicts))


def _of_judges(verdicts: pl.DataFrame) -> list[Finding]:
    """How far judges agree on the same answers, and whether one is swayed by what it is shown first."""
    names, cell, rows = verdicts["judge"].unique(maintain_order=True).to_list(), ["seed", "arm", "question"], []
    for one, other in combinations(names, 2):
        both = verdicts.filter(judge=one).join(verdicts.filter(judge=other), on=cell, suffix="_other")
        # One number a prompt: its answers by several arms are no independent evidence.
        agreement = (1 - (pl.col("win") - pl.col("win_other")).abs()).fill_nan(None).mean()
        prompts = both.group_by("seed", "question").agg(agreement.alias("agreement")).sort("seed", "question")
        claim = f"{_words(one)} and {_words(other)}: agreement on the same answers (chance: 0.5)"
        rows.append(Finding(claim, estimate(prompts, pl.col("agreement").fill_null(float("nan"))), "", 0.5, "above"))
    for judge in names:
        shown = verdicts.filter(judge=judge).filter(pl.col("position_bias") != 0)
        if len(shown):
            bias, claim = estimate(verdicts.filter(judge=judge), pl.col("position_bias")), "wins of what is shown first"
            row = Finding(f"{_words(judge)}: {claim}", bias, "", 0.0, "at", control=True, margin=EQUAL_POINTS / 100)
            rows.append(row)
    return rows


def _of_scores(answers: pl.DataFrame) -> list[Finding]:
    """ROUGE-L of the arms against the human answers."""
    both = ((arm, other, _paired(answers, arm, other)) for arm, other in COMPARED)
    difference = 100 * (pl.col("rouge_l") - pl.col("rouge_l_other"))
    return [
        Finding(
            f"ROUGE-L of {_words(arm)} less that of {_words(other)}", estimate(rows, difference), "points", 0.0, "above"
        )
        for arm, other, rows in both
        if len(rows)
    ]


def _paired(verdicts: pl.DataFrame, arm: str, other: str) -> pl.DataFrame:
    return verdicts.filter(arm=arm).join(verdicts.filter(arm=other), on=["seed", "question"], suffix="_other")


def _of_pairs(pairs: pl.DataFrame) -> list[Finding]:
    """Held-out pairs, by the global reward model and by DPO's local one."""
    both = pairs.filter(rewards="global").join(pairs.filter(rewards="local"), on=["seed", "pair"], suffix="_local")
    if not len(both):
        return []
    right = ((pl.col(name) > 0).cast(float) + 0.5 * (pl.col(name) == 0) for name in ("margin", "margin_local"))
    likelihood = (-((-pl.col(name)).exp() + 1).log() for name in ("margin", "margin_local"))
    return [
        Finding(f"held-out pairs: {what}, global less local", estimate(both, scale * (one - other)), unit, 0.0, "above")
        for what, unit, scale, (one, other) in (
            ("accuracy", "points", 100, right),
            ("log-likelihood", "nats", 1, likelihood),
        )
    ]


def summary(tables: Records) -> pl.DataFrame:
    """A row for every judge and arm: win rate with its interval, and what the answers are like."""
    rows = []
    for (judge, arm), verdicts in tables["verdicts"].group_by("judge", "arm", maintain_order=True):
        answers = tables["answers"].filter(arm=arm)
        wins = estimate(verdicts, 100 * pl.col("win")).at()
        rows.append(
            {
                "judge": judge,
                "arm": arm,
                "win_rate": wins.estimate,
                "low": wins.low,
                "high": wins.high,
                "undecided": int(verdicts["win"].is_nan().sum()),
                "log_ratio": estimate(answers, pl.col("log_ratio")).at().estimate,
                "tokens": float(answers["tokens"].mean()),  # pyright: ignore
            }
        )
    return pl.DataFrame(rows)


def figure(tables: Records) -> Figure:
    """Win rates of every arm, a panel a judge."""
    table = summary(tables)
    names = table["judge"].unique(maintain_order=True).to_list()
    drawn, grid = panels(1, len(names), 1.6)
    for panel, judge in zip(grid[0], names, strict=True):
        rows = table.filter(judge=judge)
        for place, row in enumerate(rows.reverse().iter_rows(named=True)):
            bar = [[row["win_rate"] - row["low"]], [row["high"] - row["win_rate"]]]
            panel.errorbar(row["win_rate"], place, xerr=bar, fmt="o", markersize=3, color=_colour(row["arm"]))
        panel.axvline(50, linestyle="--", linewidth=0.8, color="grey")
        panel.set_yticks(range(len(rows)), [_words(arm) for arm in rows["arm"].reverse()])
        panel.set_title(_words(judge))
    name_axes(grid, "against humans [win rate, %]", "responses of [method]")
    return drawn


def _colour(arm: str) -> str:
    if arm.startswith("online"):
        return THIRD
    return {"dpo": DPO, BEST_OF_N: RLHF}.get(arm, BLACK)


def evidence(folder: Folder) -> Evidence:
    """What the report's page says of this run; of one whose tables cannot be used, why."""
    empty = Evidence(
        name=folder.name,
        backend="tree",
        question=words_of(tldr)[0],
        setting=words_of(tldr)[1],
        about=QUESTION,
        captions={},
        preset=folder.name.removeprefix("tldr-"),
        folder=str(folder),
        command=f"python -m experiments run tldr --out {folder}",
        problems=[],
        notes=[],
        findings=[],
        pictures=[],
        listings=[],
        origin={},
    )
    try:
        found = evaluated(folder)
    except (ValueError, OSError) as error:
        return empty._replace(problems=[str(error)])
    tables, maker = found.tables, found.maker
    why, estimates = unanswered(tables), findings(tables)
    return empty._replace(
        notes=[f"Intervals are {over(tables)}.", *found.notes, *([f"No verdict: {' '.join(why)}"] if why else [])],
        findings=[] if why else estimates,
        pictures=[Picture("tldr", CAPTION.format(over=over(tables)), png_of(figure(tables)))],
        listings=[_listing(estimates)] if why else [],
        origin={
            "made": maker["created"][:10],
            "device": f"{maker['devices']} × {maker['device']}",
            "versions": ", ".join(f"{name} {version}" for name, version in maker["versions"].items()),
            "revision": maker["revision"],
        }
        | found.described,
    )


def _listing(found: list[Finding]) -> Listing:
    """Estimates without verdicts."""
    columns = ["claim", "estimate", "low", "high", "unit"]
    rows = [(each.claim, each.interval.estimate, each.interval.low, each.interval.high, each.unit) for each in found]
    table = pl.DataFrame(rows, schema=columns, orient="row")
    return Listing("estimates", len(table), table.write_csv())


def write(folder: Folder) -> None:
    """Print the tables, and write ``report.html`` and the figure beside the seeds.

    Raises:
      ValueError: as ``evaluated``.
    """
    found = evaluated(folder)
    tables = found.tables
    _show(tables)
    for note in found.notes:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)
    drawn = save(figure(tables), Path(str(folder)), "tldr") if isinstance(folder, Path) else []
    place = folder / "report.html"
    place.write_text(page([], own=[evidence(folder)]), encoding="utf-8")
    for path in (*drawn, place):
        console.print(str(path), highlight=False, soft_wrap=True)


def _show(tables: Records) -> None:
    table = Table(title=f"win rates against human answers; 95 % intervals {over(tables)}", title_justify="left")
    for heading in ("judge", "arm", "win rate, %", "95 % interval", "undecided", "nats from SFT", "tokens"):
        table.add_column(heading)
    for row in summary(tables).iter_rows(named=True):
        table.add_row(
            _words(row["judge"]),
            _words(row["arm"]),
            f"{row['win_rate']:.1f}",
            f"{row['low']:.1f} to {row['high']:.1f}",
            str(row["undecided"]),
            f"{row['log_ratio']:.2f}" if np.isfinite(row["log_ratio"]) else "–",
            f"{row['tokens']:.1f}",
        )
    console.print(table)
    found, why = findings(tables), unanswered(tables)
    claims = Table(*("claim", "estimate", "interval"), title="claims", title_justify="left")
    if not why:
        claims.add_column("verdict")
    for finding in found:
        seen = finding.interval
        middle, ends = f"{seen.estimate:.3g} {finding.unit}", f"{seen.low:.3g} to {seen.high:.3g}"
        claims.add_row(finding.claim, middle, ends, *([] if why else [finding.verdict]))
    console.print(claims)
    if why:
        console.print(f"No verdict: {' '.join(why)}", highlight=False, soft_wrap=True)
        return
    console.print(f"{SIMULTANEOUS} Controls: {tally([finding for finding in found if finding.control])}.")


def _words(name: str) -> str:
    words = {
        "sft": "SFT",
        AGAIN: "SFT, drawn anew",
        "dpo": "DPO",
        "online_from_sft": "online DPO from SFT",
        "online_from_dpo": "online DPO from DPO",
        BEST_OF_N: "best of n",
        "held_out_reward_model": "held-out reward model",
    }
    return words.get(name, name)
