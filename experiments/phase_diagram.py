"""Where does reinforcement learning pay? The gap in regret between offline DPO and two-stage RLHF, point by point.

Points vary the number of pairs, how complex the gold reward, the reward models and the policies are, the
horizon and beta. Both arms get the same task, pairs, held-out fifth and candidate penalties. Every point
carries its prediction from theory alone, d_eff / (2n) and the regret that a class too small cannot get under,
so that the records say where the theory is right, where it is wrong, and where it is silent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy.optimize import isotonic_regression

from experiments.statistics import Finding, over_seeds, ratio_over_seeds
from gvgap_jax import TokenTree, algorithms, complexity, metrics, policies, preferences, tasks, verifiers
from gvgap_jax.sweep.grid import Cell, Grid

MEANING = 1
HELD_OUT_EVERY = 5
TRAINED = 1 - 1 / HELD_OUT_EVERY  # share of the pairs that is fitted
PADDED, GROWTH = 4096, 8  # numbers of pairs are padded to 4,096, or eight times as many, and so on

HOLDS = 1e-3  # a class holds the gold reward if its floor is below this share of the reference's regret
FACTOR = 2.0  # a cell lies on the common curve if its regret is within this factor of it
EQUAL = 1e-4  # nats: what the solvers' tolerance leaves between equal policies
FAR = 3.0  # half-widths of the interval beyond which a predicted gap is far outside
# Fitted pairs a dimension from which the leading order is trusted. In the quick preset the measured regret is about
# 0.7 times the predicted one there, 0.9 times from four on, and half or less of d_eff / (2n) below one half.
RANGE = 1.0

ROADS = {"DPO": algorithms.dpo, "RLHF": algorithms.rlhf}
AT_DATA = ("interactions", "sparse")  # families of gold rewards whose complexity may be an array

TASK = ["task", "vocabulary", "horizon", "gold_order", "beta", "temperature", "reference_scale"]
POINT = [*TASK, "policy", "policy_order", "verifier_order", "pairs"]
ARM = [*TASK, "arm", "policy", "policy_order", "verifier_order", "pairs"]
SAME_CLASS = (pl.col("policy") == "interactions") & (pl.col("policy_order") == pl.col("verifier_order"))
IN_RANGE = f"in its range, {RANGE:g} fitted pair(s) a dimension or more"


@dataclass(frozen=True)
class Config:
    """One point of the diagram.

    Attributes:
      vocabulary: tokens of the vocabulary (V).
      horizon: tokens of a response (H); the tree has V**H responses.
      task: family of the gold reward, a name in ``gvgap_jax.tasks.TASKS``.
      gold_order: complexity of the gold reward: the order of its interactions, or what its family counts.
      verifier_order: reward models are all interactions of up to so many positions.
      policy: ``tabular``, every policy, or ``interactions``, the soft-optimal policies of all interactions
        of up to ``policy_order`` positions.
      policy_order: read where policies are ``interactions``.
      pairs: labelled pairs, a fifth of which is held out for selection.
      beta: strength of the KL regularisation, reward per nat.
      temperature: of the labels.
      reference_scale: standard deviation of the reference policy's logits; 0 is uniform.
    """

    vocabulary: int = 3
    horizon: int = 4
    task: str = "interactions"
    gold_order: int = 1
    verifier_order: int = 1
    policy: str = "tabular"
    policy_order: int = 1
    pairs: int = 2048
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 0.0

    def __post_init__(self):
        tasks.task_family(self.task)
        if self.policy not in ("tabular", "interactions"):
            raise ValueError(f"policy must be 'tabular' or 'interactions', got {self.policy!r}.")
        for name in ("gold_order", "verifier_order", "policy_order"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.vocabulary < 2:
            raise ValueError(
                f"vocabulary must be at least 2: with 1 there is a single response, got {self.vocabulary}."
            )
        if self.pairs < HELD_OUT_EVERY:
            raise ValueError(f"pairs must be at least {HELD_OUT_EVERY} (one is held out), got {self.pairs}.")
        for name in ("beta", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.reference_scale < 0:
            raise ValueError(f"reference_scale must not be negative, got {self.reference_scale}.")


def _policies(tabular: tuple[int, ...], interactions: tuple[int, ...]) -> dict[str, tuple]:
    """Zipped axes of the horizons with tabular policies, and of those with interactions of every order."""
    rows = [(horizon, "tabular", 1) for horizon in tabular]
    rows += [(horizon, "interactions", order) for horizon in interactions for order in range(1, horizon + 1)]
    return dict(zip(("horizon", "policy", "policy_order"), zip(*rows, strict=True), strict=True))


def _grid(seeds: int, tabular: tuple[int, ...], interactions: tuple[int, ...], **axes: tuple) -> Grid:
    return Grid(_policies(tabular, interactions) | axes, (("horizon", "policy", "policy_order"),), seeds)


PRESETS = {
    "quick": _grid(
        13,
        tabular=(2, 4),
        interactions=(4,),
        gold_order=(1, 2, 3, 4),
        verifier_order=(1, 2, 3, 4),
        pairs=(64, 256, 1024, 4096),
        beta=(0.5, 1.0, 2.0),
    ),
    "paper": _grid(
        16,
        tabular=(2, 4, 6),
        interactions=(4,),
        task=("interactions", "sparse", "automaton", "token_counts"),
        gold_order=(1, 2, 3, 4),
        verifier_order=(1, 2, 3, 4, 6),
        pairs=tuple(2**power for power in range(6, 13)),
        beta=(0.5, 1.0, 2.0),
    ),
    "full": _grid(
        64,
        tabular=(2, 3, 4, 5, 6),
        interactions=(4, 5),
        task=("interactions", "sparse", "automaton", "token_counts"),
        gold_order=(1, 2, 3, 4, 5, 6),
        verifier_order=(1, 2, 3, 4, 5, 6),
        pairs=tuple(2**power for power in range(5, 16)),
        beta=(0.25, 0.5, 1.0, 2.0, 4.0),
        reference_scale=(0.0, 1.0),
    ),
}


class Program(NamedTuple):
    """What decides a compiled program.

    Attributes:
      arm: ``DPO`` or ``RLHF``, or ``dimensions`` for the prediction.
      policy: the class of the policies.
      tree: the responses.
      pairs: the padded number of pairs.
      task: family of the gold reward.
      complexity: of the gold reward, where its family does not take an array.
    """

    arm: str
    policy: str
    tree: TokenTree
    pairs: int
    task: str
    complexity: int | None


def cells(config: Config) -> list[Cell]:
    """Both arms of a point and both of their predictions; none where an order is beyond what the tree has.

    Where the policies hold every soft-optimal policy of the reward models, the second stage of RLHF is
    lossless and does not depend on them: it is the closed form of tabular policies, one cell for them all.
    """
    tree = TokenTree(config.vocabulary, config.horizon)
    policy_order = config.horizon if config.policy == "tabular" else config.policy_order
    if max(policy_order, config.verifier_order) > config.horizon or config.gold_order not in _complexities(config):
        return []
    lossless = policy_order >= config.verifier_order
    second_stage = ("tabular", config.horizon) if lossless else ("interactions", policy_order)
    return [
        _cell(config, tree, "DPO", (config.policy, policy_order), 0),
        _cell(config, tree, "RLHF", second_stage, config.verifier_order),
        _cell(config, tree, "dimensions", ("tabular", config.horizon), policy_order),
        _cell(config, tree, "dimensions", second_stage, config.verifier_order),
    ]


def _complexities(config: Config) -> range:
    """What gold_order can be for the family on this tree; an automaton of one state cannot tell responses apart."""
    return {
        "interactions": range(1, config.horizon + 1),
        "sparse": range(1, config.vocabulary**config.horizon),
        "automaton": range(2, config.vocabulary**config.horizon + 1),
        "token_counts": range(1, config.vocabulary + 1),
    }[config.task]


def _cell(config: Config, tree: TokenTree, arm: str, policy: tuple[str, int], verifier_order: int) -> Cell:
    kind, policy_order = policy
    fitted = arm in ROADS
    program = Program(
        arm,
        kind,
        tree,
        _padded(config.pairs) if fitted else 0,
        config.task,
        None if config.task in AT_DATA else config.gold_order,
    )
    labels = {"task": config.task, "vocabulary": tree.vocabulary, "horizon": tree.horizon, "arm": arm, "policy": kind}
    numbers: dict[str, int | float] = {"gold_order": config.gold_order}
    numbers |= {name: float(getattr(config, name)) for name in ("beta", "temperature", "reference_scale")}
    numbers |= {"policy_order": policy_order, "verifier_order": verifier_order}
    if not fitted:
        return Cell("dimensions", program, labels, numbers)
    return Cell("fits", program, labels, numbers | {"pairs": config.pairs})


def _padded(pairs: int) -> int:
    size = PADDED
    while size < pairs:
        size *= GROWTH
    return size


def run(program: Program, cell: dict) -> dict:
    """One fit of one arm, or the prediction of one class, as scalars."""
    tree = program.tree
    key = jax.random.fold_in(jax.random.key(cell["seed"]), cell["gold_order"])
    task_key, pairs_key, fit_key = jax.random.split(jax.random.fold_in(key, tree.horizon), 3)
    gold = cell["gold_order"] if program.complexity is None else program.complexity
    task = tasks.task_family(program.task)(task_key, tree, gold, cell["reference_scale"])
    task = task._replace(beta=cell["beta"], temperature=cell["temperature"])
    verifier = verifiers.nested_interactions(tree, cell["verifier_order"])
    policy = policies.tabular(tree, tree.conditionals(task.reference))
    if program.policy == "interactions":
        teacher = verifiers.nested_interactions(tree, cell["policy_order"])
        policy = verifiers.soft_optimal_class(tree, teacher, task.reference, task.beta)
    classes = algorithms.Classes(policy, verifier)
    if program.arm == "dimensions":
        return _prediction(fit_key, tree, classes, task, cell["policy_order"])
    train, held_out = preferences.split(
        preferences.sample(pairs_key, tree, task, program.pairs), cell["pairs"], HELD_OUT_EVERY
    )
    fit = ROADS[program.arm](fit_key, classes, algorithms.Problem(task, train, held_out), algorithms.Settings())
    assert policy.leaf_log_probs is not None
    measured = metrics.evaluate(policy.leaf_log_probs(fit.params), task)
    return measured._asdict() | {name: value for name, value in fit._asdict().items() if name != "params"}


def _prediction(key, tree: TokenTree, classes: algorithms.Classes, task: tasks.Task, policy_order) -> dict:
    """d_eff of a two-stage arm at the gold reward, its regret with infinitely many pairs, and the reference's."""
    policy, verifier = classes.policy, classes.verifier
    assert verifier is not None
    assert verifier.leaf_scores is not None
    assert policy.leaf_log_probs is not None
    start = verifier.init(key)
    limit = complexity.population_fit(verifier, start, task)
    reward = verifier.leaf_scores(limit.params)
    projected = algorithms.second_stage(key, policy, reward, task, algorithms.Settings())
    followed = None
    if policy.from_log_probs is None:
        followed = complexity.reward_gradients(verifiers.nested_interactions(tree, policy_order), start)
    gradients = complexity.reward_gradients(verifier, start)
    return {
        "effective_dimension": complexity.effective_dimension(gradients, task, policy_gradients=followed),
        "floor": jnp.maximum(metrics.evaluate(policy.leaf_log_probs(projected.params), task).regret, 0.0),
        "reference_regret": metrics.evaluate(task.reference, task).regret,
        "gradient_norm": jnp.maximum(limit.gradient_norm, projected.gradient_norm),
        "converged": limit.converged & projected.converged,
    }


def predicted_regret() -> pl.Expr:
    """Regret of an arm, in nats: min(the reference's, floor + d_eff / (2 n)), with n the pairs that are fitted.

    The leading order in 1/n of an unpenalised fit of a class that holds the gold reward. Where the class is too small
    the floor is exact and the other term is not (its errors are taken as if the gold reward were in reach), and
    below about one fitted pair a dimension the penalty decides; the reference's regret, which the penalty
    can always fall back on, is then an upper end and no estimate.
    """
    leading = pl.col("floor") + pl.col("effective_dimension") / (2 * TRAINED * pl.col("pairs"))
    return pl.min_horizontal("reference_regret", leading)


def arms(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """One row a fit with its prediction; NaN for the regret or the prediction of what did not converge.

    Columns beside those of the fit: effective_dimension, floor, reference_regret, predicted, holds (the class
    holds the gold reward) and in_range (the leading order is trusted).
    """
    offline = pl.col("arm") == "DPO"
    classes = records["dimensions"].select(
        *TASK, "seed", "effective_dimension", "floor", "reference_regret",
        order="verifier_order", through="policy_order", predictable="converged",
    )  # fmt: skip
    fits = records["fits"].with_columns(
        order=pl.when(offline).then("policy_order").otherwise("verifier_order"),
        through=pl.when(offline).then("horizon").otherwise("policy_order"),
    )
    joined = fits.join(classes, on=[*TASK, "seed", "order", "through"], how="left", maintain_order="left")
    return joined.with_columns(
        regret=_unless(~pl.col("converged"), pl.col("regret")),
        predicted=_unless(~pl.col("predictable"), predicted_regret()),
        holds=pl.col("floor") < HOLDS * pl.col("reference_regret"),
        in_range=TRAINED * pl.col("pairs") > RANGE * pl.col("effective_dimension"),
    ).drop("order", "through")


def _unless(failed: pl.Expr, value: pl.Expr) -> pl.Expr:
    return pl.when(failed).then(float("nan")).otherwise(value)


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
    in_range (of both arms).
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
            | {"in_range": bool((seeds["in_range"] & seeds["in_range_rlhf"]).all())}
        )
    return pl.DataFrame(rows)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Where RL should win and where it should lose, the control, how often theory names the sign, the collapse."""
    paired = gaps(records)
    return [*_gap_findings(paired), *_sign_findings(paired), *_collapse_findings(records)]


def _gap_findings(paired: pl.DataFrame) -> list[Finding]:
    simpler = pl.col("verifier_order") < pl.col("policy_order")
    most, rows = paired["pairs"].max(), []
    for horizon in sorted(paired["horizon"].unique(), reverse=True):
        here = paired.filter(simpler, pl.col("holds"), horizon=horizon)
        claim = f"H={horizon}, reward models simpler than policies, and hold the gold: regret of DPO - RLHF"
        rows += _finding(claim, here.filter("holds_rlhf"), pl.col("gap").mean(), "nats", 0.0, "above")
        loses = here.filter(~pl.col("holds_rlhf"), pairs=most)
        claim = f"H={horizon}, reward models too simple for the gold, {most:,} pairs: regret of DPO - RLHF"
        rows += _finding(claim, loses, pl.col("gap").mean(), "nats", 0.0, "below")
    claim = "control, same class and penalty on both roads: largest difference of regret"
    equal = paired.filter(SAME_CLASS, pl.col("penalty") == pl.col("penalty_rlhf"))
    return rows + _finding(claim, equal, pl.col("gap").abs().max(), "nats", EQUAL, "below")


def _sign_findings(paired: pl.DataFrame) -> list[Finding]:
    finite = pl.col("gap").is_finite() & pl.col("predicted_gap").is_finite()
    told = paired.filter(~SAME_CLASS, finite, pl.col("predicted_gap") != 0)
    trusted = told.filter(pl.col("in_range") & pl.col("in_range_rlhf"))
    agrees = (pl.col("gap").sign() == pl.col("predicted_gap").sign()).mean()
    claim = "share of points where theory names the sign of the gap"
    return [
        *_finding(claim, told, agrees, "", 0.9, "above"),
        *_finding(f"the same {IN_RANGE}", trusted, agrees, "", 0.9, "above"),
    ]


def _collapse_findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    fits = collapse(records)
    ratio = (pl.col("log_regret") - pl.col("predicted").log()).mean().exp()
    claim = f"measured over predicted regret {IN_RANGE}"
    rows = _finding(claim, fits.filter("in_range"), ratio, "times", 1 / FACTOR, "above")
    claim = "share of the variance of log regret that n / d_eff explains, by one decreasing curve"
    rows += _finding(claim, fits, explained("log_regret", "curve"), "", 0.9, "above")
    claim = "share of the variance of log(DPO / RLHF) that d_eff(DPO) / d_eff(RLHF) explains, by one increasing curve, "
    return rows + _finding(claim + IN_RANGE, ratios(records), explained("log_ratio", "curve"), "", 0.9, "above")


def _finding(
    claim: str, rows: pl.DataFrame, statistic: pl.Expr, unit: str, bound: float, direction: str
) -> list[Finding]:
    """The finding of one statistic a seed, where any row speaks to it."""
    values = rows.group_by("seed", maintain_order=True).agg(statistic.alias("statistic"))["statistic"]
    return [Finding(claim, over_seeds(values), unit, bound, direction)] if len(rows) else []


def explained(value: str, curve: str) -> pl.Expr:
    """Share of the variance of one column that another explains; the noise of single fits is nobody's to explain."""
    left = ((pl.col(value) - pl.col(curve)) ** 2).sum()
    return 1 - left / ((pl.col(value) - pl.col(value).mean()) ** 2).sum()


def collapse(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Converged fits of classes that hold the gold reward, against the fitted pairs a dimension.

    Columns beside those of ``arms``: log_pairs_a_dimension, log_regret, and the curve of all other seeds there.
    """
    fits = arms(records).filter(pl.col("holds"), pl.col("effective_dimension").is_finite())
    fits = fits.with_columns(
        log_pairs_a_dimension=(TRAINED * pl.col("pairs") / pl.col("effective_dimension")).log(),
        log_regret=pl.col("regret").log(),
    ).filter(pl.col("log_regret").is_finite(), pl.col("predicted").is_finite())
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
    found = points.with_columns(kind=kind).filter(pl.col("kind").is_not_null(), pl.col("off").is_finite())
    return found.sort("kind", "in_range", "off", descending=[False, True, True])


def refusals(records: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Cells that do not lie on the collapse: regret over the curve, with an interval beyond FACTOR, worst first."""
    rows = []
    for cell, seeds in collapse(records).group_by(ARM, maintain_order=True):
        times = ratio_over_seeds(seeds["log_regret"] - seeds["curve"])
        rows.append(
            dict(zip(ARM, cell, strict=True))
            | {name: float(seeds[name].to_numpy().mean()) for name in ("regret", "effective_dimension")}
            | {"over_curve": times.estimate, "low": times.low, "high": times.high, "seeds": times.seeds}
        )
    beyond = (pl.col("low") > FACTOR) | (pl.col("high") < 1 / FACTOR)
    found = pl.DataFrame(rows).filter(pl.col("low").is_finite() & beyond)
    return found.sort(pl.col("over_curve").log().abs(), descending=True)
