"""What the records of the phase diagram say: gaps beside their predictions, and the collapse onto n / d_eff."""

import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression

from experiments.kit.intervals import over_seeds, ratio_over_seeds
from experiments.kit.per_seed import usable
from experiments.kit.problems import TRAINED

HOLDS = 1e-3  # a class holds the gold reward if its floor is below this share of the reference's regret
FACTOR = 2.0  # a cell lies on the common curve if its regret is within this factor of it
FAR = 3.0  # half-widths of the interval beyond which a predicted gap is far outside
# Fitted pairs for each effective dimension from which the leading order is trusted. In the quick preset the measured
# regret is about 0.7 times the predicted one there, 0.9 times from four on, and at most half of d_eff / (2n) below 1/2.
RANGE = 1.0

TASK = ["task", "vocabulary", "horizon", "gold_order", "beta", "temperature", "reference_scale"]
POINT = [*TASK, "policy", "policy_order", "verifier_order", "pairs"]
ARM = [*TASK, "arm", "policy", "policy_order", "verifier_order", "pairs"]
LAWS = [*TASK, "seed", "pairs", "order", "expected", "trusted"]  # columns of the law's predictions that are read
SAME_CLASS = (pl.col("policy") == "interactions") & (pl.col("policy_order") == pl.col("verifier_order"))
IN_RANGE = f"where theory claims to hold, {RANGE:g} or more fitted pairs for each effective dimension"


def leading_regret() -> pl.Expr:
    """Regret of an arm, in nats: min(the reference's, floor + d_eff / (2 n)), with n the pairs that are fitted.

    The leading order in 1/n of an unpenalised fit of a class that holds the gold reward. Where the class is too small
    the floor is exact and the other term is not (its errors are taken as if the gold reward were in reach), and
    below about one fitted pair for each dimension the penalty decides; the reference's regret, which the penalty
    can always fall back on, is then an upper end and no estimate.
    """
    leading = pl.col("floor") + pl.col("effective_dimension") / (2 * TRAINED * pl.col("pairs"))
    return pl.min_horizontal("reference_regret", leading)


def arms(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row a fit with its prediction; NaN for the regret and what theory says where either is excluded.

    Columns beside those of the fit: effective_dimension, floor, reference_regret, leading (``leading_regret``),
    predicted (the mean over data sets by the law of few pairs; leading where that law was not asked, of large trees and
    of policies that are smaller than the reward models), holds (the class holds the gold reward), in_range (the leading
    order is trusted) and trusted (what is predicted is).
    """
    offline, tabular = pl.col("arm") == "DPO", pl.col("policy") == "tabular"
    classes = records["dimensions"].select(
        *TASK, "seed", "effective_dimension", "floor", "reference_regret",
        order="verifier_order", through="policy_order", status_prediction="status",
    )  # fmt: skip
    fits = (
        records["fits"]
        .with_columns(
            order=pl.when(offline).then("policy_order").otherwise("verifier_order"),
            through=pl.when(offline).then("horizon").otherwise("policy_order"),
        )
        .with_columns(
            law_order=pl.when(offline & tabular).then(0).when(offline | tabular).then("order"),
        )
    )
    joined = fits.join(classes, on=[*TASK, "seed", "order", "through"], how="left", maintain_order="left")
    none = pl.DataFrame(schema={name: fits.schema.get(name, pl.Float64) for name in LAWS})
    laws = records.get("predictions", none)
    laws = laws.select(*TASK, "seed", "pairs", "expected", law_order="order", law_trusted="trusted")
    joined = joined.join(laws, on=[*TASK, "seed", "pairs", "law_order"], how="left", maintain_order="left")
    in_range = TRAINED * pl.col("pairs") > RANGE * pl.col("effective_dimension")
    return joined.with_columns(
        regret=usable(pl.col("regret")),
        leading=usable(leading_regret()),
        predicted=usable(pl.coalesce("expected", leading_regret())),
        holds=pl.col("floor") < HOLDS * pl.col("reference_regret"),
        in_range=in_range,
        trusted=pl.coalesce(pl.col("law_trusted").cast(pl.Boolean), in_range),
    ).drop("order", "through", "law_order", "law_trusted", "expected")


def gaps(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row a point and seed: regret of DPO minus that of two-stage RLHF on the same pairs, in nats, and predicted.

    ``policy_order`` is the horizon for tabular policies. The columns of RLHF end in ``_rlhf``.
    """
    both = arms(records)
    shared = [*TASK, "pairs", "seed"]
    joined = both.filter(arm="DPO").drop("verifier_order").join(
        both.filter(arm="RLHF").rename({"verifier_order": "order"}), on=shared, suffix="_rlhf", maintain_order="left"
    ).rename({"order": "verifier_order"})  # fmt: skip
    lossless = pl.col("policy_order") >= pl.col("verifier_order")
    through = pl.when(lossless).then("horizon").otherwise("policy_order")
    return joined.filter(pl.col("policy_order_rlhf") == through).with_columns(
        gap=pl.col("regret") - pl.col("regret_rlhf"),
        predicted_gap=pl.col("predicted") - pl.col("predicted_rlhf"),
    )


def summary(paired: pl.DataFrame) -> pl.DataFrame:
    """One row a point: the gap with its interval over seeds, the predicted gap (mean over seeds), and what holds.

    Columns: gap, low, high, seeds, failed, predicted_gap, holds and holds_rlhf (each class holds every gold reward),
    trusted (of both arms).
    """
    rows = []
    for point, seeds in paired.group_by(POINT, maintain_order=True):
        interval = over_seeds(seeds["gap"])
        rows.append(
            dict(zip(POINT, point, strict=True))
            | {"gap": interval.estimate, "low": interval.low, "high": interval.high}
            | {"seeds": interval.seeds, "failed": interval.failed}
            | {"predicted_gap": over_seeds(seeds["predicted_gap"]).estimate}
            | {name: bool(seeds[name].all()) for name in ("holds", "holds_rlhf")}
            | {"trusted": bool((seeds["trusted"] & seeds["trusted_rlhf"]).all())}
        )
    return pl.DataFrame(rows)


def explained(value: str, curve: str) -> pl.Expr:
    """Share of the variance of one column that another explains; the noise of single fits is nobody's to explain."""
    left = ((pl.col(value) - pl.col(curve)) ** 2).sum()
    return 1 - left / ((pl.col(value) - pl.col(value).mean()) ** 2).sum()


def collapse(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Converged fits of classes that hold the gold reward, against the fitted pairs for each effective dimension.

    Columns beside those of ``arms``: log_pairs_a_dimension, log_regret, and the curve of all other seeds there.
    """
    fits = arms(records).filter(pl.col("holds"), pl.col("effective_dimension").is_finite())
    fits = fits.with_columns(
        log_pairs_a_dimension=(TRAINED * pl.col("pairs") / pl.col("effective_dimension")).log(),
        log_regret=pl.col("regret").log(),
    ).filter(pl.col("log_regret").is_finite(), pl.col("leading").is_finite())
    return _with_curve(fits, "log_pairs_a_dimension", "log_regret", increasing=False)


def ratios(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Converged pairs of arms of different classes that hold the gold reward, both in the range of the theory.

    Columns beside those of ``gaps``: log_dimensions and log_ratio, DPO over RLHF, and the curve of all other seeds.
    To leading order log_ratio is log_dimensions.
    """
    paired = gaps(records).filter(
        pl.col("holds"), pl.col("holds_rlhf"), pl.col("in_range"), pl.col("in_range_rlhf"),
        pl.col("policy_order") != pl.col("verifier_order"),
    )  # fmt: skip
    paired = paired.with_columns(
        log_dimensions=(pl.col("effective_dimension") / pl.col("effective_dimension_rlhf")).log(),
        log_ratio=(pl.col("regret") / pl.col("regret_rlhf")).log(),
    ).filter(pl.col("log_ratio").is_finite(), pl.col("log_dimensions").is_finite())
    return _with_curve(paired, "log_dimensions", "log_ratio", increasing=True)


def common_curve(x: np.ndarray, y: np.ndarray, increasing: bool) -> tuple[np.ndarray, np.ndarray]:
    """The monotone curve of least squares through all points, as its (x, y) ascending in x.

    That regret depends on n and the class through their ratio alone, and falls with it, is all that a collapse
    claims. The isotonic fit assumes nothing else and has nothing to tune: no other monotone curve explains more.
    """
    order = np.argsort(x, kind="stable")
    return x[order], isotonic_regression(y[order], increasing=increasing).x


def _with_curve(rows: pl.DataFrame, x: str, y: str, increasing: bool) -> pl.DataFrame:
    """Rows with a column curve: the common curve through every other seed, so that no seed explains itself."""
    parts = []
    for seed in sorted(rows["seed"].unique()):
        here, others = rows.filter(pl.col("seed") == seed), rows.filter(pl.col("seed") != seed)
        if len(others):
            curve = common_curve(others[x].to_numpy(), others[y].to_numpy(), increasing)
            parts.append(here.with_columns(curve=pl.Series(np.interp(here[x].to_numpy(), *curve))))
    return pl.concat(parts) if parts else rows.clear().with_columns(curve=pl.lit(0.0))


def disagreements(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Points where the measured gap contradicts the prediction, with the numbers of ``summary``, worst first.

    ``sign``: the interval excludes zero on the other side of it than the prediction. ``size``: the prediction is
    further than FAR half-widths from the estimate. ``off`` is that distance, in half-widths.
    """
    points = summary(gaps(records)).with_columns(
        off=(pl.col("predicted_gap") - pl.col("gap")).abs() / ((pl.col("high") - pl.col("low")) / 2)
    )
    against = ((pl.col("low") > 0) & (pl.col("predicted_gap") < 0)) | (
        (pl.col("high") < 0) & (pl.col("predicted_gap") > 0)
    )
    kind = pl.when(against).then(pl.lit("sign")).when(pl.col("off") > FAR).then(pl.lit("size"))
    off = points.with_columns(kind=kind).filter(pl.col("kind").is_not_null(), pl.col("off").is_finite())
    return off.sort("kind", "trusted", "off", descending=[False, True, True])


def off_the_curve(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Cells that do not lie on the collapse: regret over the curve, with an interval beyond FACTOR, worst first."""
    rows, fits = [], collapse(records)
    for cell, seeds in fits.group_by(ARM, maintain_order=True):
        times = ratio_over_seeds(seeds["log_regret"] - seeds["curve"])
        rows.append(
            dict(zip(ARM, cell, strict=True))
            | {name: float(seeds[name].to_numpy().mean()) for name in ("regret", "effective_dimension")}
            | {"over_curve": times.estimate, "low": times.low, "high": times.high, "seeds": times.seeds}
        )
    beyond = (pl.col("low") > FACTOR) | (pl.col("high") < 1 / FACTOR)
    measured = dict.fromkeys(("regret", "effective_dimension", "over_curve", "low", "high"), pl.Float64)
    schema = {name: fits.schema[name] for name in ARM} | measured | {"seeds": pl.Int64}
    off = pl.DataFrame(rows, schema=schema).filter(pl.col("low").is_finite() & beyond)
    return off.sort(pl.col("over_curve").log().abs(), descending=True)
