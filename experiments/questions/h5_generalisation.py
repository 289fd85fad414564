"""Do global reward models generalise better than local?

Do they predict preferences better out of distribution, and does that explain the gap?
A small network scores responses in three ways. A global reward model reads the complete response, a local one adds the
scores of all its prefixes, and DPO's implicit one is a policy, beta log pi/pi_ref. The widths of the latter two are
chosen so that all three have the same number of free parameters as nearly as possible: of those stored some change no
margin, in each model others. All are fitted to the same pairs of responses of the reference policy, by the same
optimiser, and stopped on the same held-out fifth. Then the likelihood of further labels is computed exactly, over all
pairs of responses: of the reference policy (in distribution), of the soft-optimal policy of the gold reward, and of the
inverse of the reference policy, which prefers what it rarely samples. And each model picks the best of n responses of
the reference policy.

On transformers all three are transformers of one width, so that their numbers of parameters differ by a head alone:
the global one reads out the state after the last token, the local one the states after all of them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from experiments.kit import plots
from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_REWARD, EQUAL_SHARE, Finding, Question
from experiments.kit.intervals import Estimate, estimate, mean
from experiments.kit.per_seed import by_seed, each_seed, paired
from experiments.kit.plots import BLACK, DPO, RLHF, THIRD, curve, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.kit.problems import problem_of, record_of, task_of
from experiments.questions.h5_generalisation_sizes import READ_OUT, sizes
from gvgap_jax import TokenTree, algorithms, divergence, metrics, policies, preferences
from gvgap_jax.losses import weighted_mean
from gvgap_jax.sweep import Cell, Grid
from gvgap_jax.tasks import Task

MEANING = 2
QUESTION = Question(
    place=50,
    label="H5",
    claim="Global reward models generalise better than local ones; in and out of distribution they rank alike.",
    reported=(
        "arXiv 2503.01067 reports held-out likelihoods of .526 (DPO) < .567 (local) < .593 (global) at 1.4B, the same "
        "order by best-of-n, and takes better generalisation for a symptom, not the cause."
    ),
    figure="held-out likelihood and best-of-n of global, local and DPO reward models",
    axes=("horizon", "gold_order", "pairs"),
)

SMALLEST = 2048  # size that numbers of pairs are padded to
BEST_OF = tuple(2**power for power in range(9))
COMPARED = 32  # responses to choose from where best-of-n is compared
SETTINGS = algorithms.Settings(solver="adam", tolerance=0.0, adam_steps=10_000)  # the held-out pairs alone stop it
LAWS = {"reference": "in distribution", "optimal": "out of it (soft-optimal)", "rare": "out of it (inverse reference)"}
SETTING = ["horizon", "gold_order", "width", "beta", "temperature", "reference_scale"]
POINT = [*SETTING, "pairs", "seed"]


@dataclass(frozen=True)
class Config:
    """Settings of one point.

    Attributes:
      gold_order: positions in an interaction of the gold reward, 1 (additive) to H (full table).
      width: hidden units of the global reward model; the width of all three transformers.
      pairs: labelled pairs, a fifth of which is held out to stop by.
      beta: strength of the KL regularisation in DPO's implicit rewards and in the soft-optimal policy, reward per nat.
    """

    vocabulary: int = 3
    horizon: int = 4
    gold_order: int = 1
    width: int = 5
    pairs: int = 512
    beta: float = 1.0
    temperature: float = 1.0
    reference_scale: float = 1.0

    def __post_init__(self):
        check(self)


_FULL = {
    "horizon": (4, 6),
    "gold_order": (1, 2, 4, 6),
    "pairs": tuple(2**power for power in range(6, 17)),
    "reference_scale": (0.5, 1.0, 2.0),
}
PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "width": (2,), "pairs": (256,)}, seeds=2),
        "quick": Grid({"gold_order": (1, 4), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid({"gold_order": (1, 2, 4), "pairs": (128, 512, 2048)}, seeds=48),
        "paper": Grid(
            {"gold_order": (1, 2, 4), "width": (4, 16), "pairs": tuple(2**power for power in range(6, 14))}, seeds=64
        ),
        "full": Grid(_FULL | {"width": (4, 16, 64)}, seeds=256),
    }
)
TRANSFORMER_PRESETS = disjoint(
    {
        "tiny": Grid({"horizon": (2,), "gold_order": (1, 2), "width": (4,), "pairs": (256,)}, seeds=2),
        "quick": Grid({"gold_order": (1, 4), "width": (32,), "pairs": (128, 512, 2048)}, seeds=24),
        "standard": Grid({"gold_order": (1, 4), "width": (32,), "pairs": (128, 512, 2048)}, seeds=32),
        "paper": Grid(
            {"gold_order": (1, 2, 4), "width": (16, 64), "pairs": tuple(2**power for power in range(6, 14))}, seeds=64
        ),
        "full": Grid(_FULL | {"width": (16, 64, 256)}, seeds=256),
    }
)


class Program(NamedTuple):
    """What decides a compiled program: the model, the responses, the padded number of pairs and the width."""

    model: str
    tree: TokenTree
    pairs: int
    width: int


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """The three models, the global one from a second initialisation, and the gold reward as its own model.

    None for gold rewards that the tree has not.
    """
    if config.gold_order > config.horizon:
        return []
    tree, made = TokenTree(config.vocabulary, config.horizon), []
    for model, initialisation in (("global", 0), ("global", 1), ("local", 0), ("DPO", 0)):
        width, counted = sizes(backend, tree, config.width)[model]
        program = Program(model, tree, preferences.padded(config.pairs, SMALLEST), width)
        numbers = _numbers(config) | {"pairs": config.pairs, "initialisation": initialisation}
        made.append(Cell("fits", program, _labels(model, tree) | {"width": config.width} | counted, numbers))
    return [*made, Cell("gold", Program("gold", tree, 0, 0), _labels("gold", tree), _numbers(config))]


def _labels(model: str, tree: TokenTree) -> dict[str, str | int]:
    return {"model": model, "horizon": tree.horizon}


def _numbers(config: Config) -> dict[str, int | float]:
    numbers: dict[str, int | float] = {"gold_order": config.gold_order}
    return numbers | {name: getattr(config, name) for name in ("beta", "temperature", "reference_scale")}


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fitted reward model, or the gold reward itself: its likelihoods under every law, and its best-of-n."""
    tree, settings = program.tree, SETTINGS if backend is TREE else backend.settings
    task, pairs_key, fit_key = task_of(cell, tree)
    if program.model == "gold":
        shifts = {f"shift_{name}": _mean(task, divergence.kl(law, task.reference)) for name, law in laws(task).items()}
        return _judged(tree, task, task.reward) | shifts
    problem = problem_of(cell, tree, task, pairs_key, program.pairs)
    key = jax.random.fold_in(fit_key, cell["initialisation"])
    if program.model == "DPO":
        policy = backend.network_policy(tree, program.width, tree.conditionals(task.reference))
        fit = algorithms.dpo(key, algorithms.Classes(policy), problem, settings)
        scores = task.beta * (policy.leaf_log_probs(fit.params) - task.reference)
    else:
        verifier = backend.network_verifier(tree, program.width, READ_OUT[program.model])
        fit = algorithms.reward_model(key, algorithms.Classes(policies.tabular(tree), verifier), problem, settings)
        scores = verifier.leaf_scores(fit.params)
    return _judged(tree, task, scores) | record_of(fit)


def laws(task: Task) -> dict[str, Float[Array, "X L"]]:
    """Log-probabilities of the policies whose pairs are judged: the reference, the soft-optimal, the inverse."""
    return {"reference": task.reference, "optimal": task.optimal, "rare": jax.nn.log_softmax(-task.reference)}


def _judged(tree: TokenTree, task: Task, scores: Float[Array, "X L"]) -> dict:
    # One program for all laws, and one for all n: a copy for each would take longer to compile than to run.
    likelihoods = jax.vmap(lambda law: likelihood(tree, task, scores, law))(jnp.stack(list(laws(task).values())))
    chosen = jax.vmap(lambda n: metrics.best_of_n(task.reference, scores, n))(jnp.array(BEST_OF))
    gold = jax.vmap(lambda law: _mean(task, jnp.sum(law * task.reward, axis=-1)))(chosen)
    named = {f"likelihood_{name}": likelihoods[index] for index, name in enumerate(LAWS)}
    return named | {f"best_of_{n}": gold[index] for index, n in enumerate(BEST_OF)}


def _mean(task: Task, values: Float[Array, "X"]) -> Float[Array, ""]:
    return weighted_mean(values, task.prompt_probs)


def likelihood(tree: TokenTree, task: Task, scores: Float[Array, "X L"], law: Float[Array, "X L"]) -> Float[Array, ""]:
    """Geometric mean probability that ``scores`` [X, L] give to the labels of all pairs drawn from ``law``, exactly."""
    pairs = preferences.population(tree, task, law)
    chosen, rejected = (tree.at(scores, pairs.prompts, side) for side in (pairs.chosen, pairs.rejected))
    return metrics.pair_likelihood((chosen - rejected) / task.temperature, pairs.weight)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """For every gold reward: who is better where, and whether the ranks in and out of distribution agree."""
    fits = records["fits"]
    first, rows = fits.filter(initialisation=0), []
    for (horizon, gold), here in first.group_by("horizon", "gold_order", maintain_order=True):
        name = f"H={horizon}, {'full-table ' if gold == horizon else ''}gold reward (order {gold})"
        for better, worse in (("global", "local"), ("local", "DPO")):
            for law, where in LAWS.items():
                more = difference(here.filter(model=better), here.filter(model=worse), f"likelihood_{law}")
                rows.append(Finding(f"{name}: likelihood {where}, {better} - {worse}", more, "", 0.0, "above"))
            more = difference(here.filter(model=better), here.filter(model=worse), f"best_of_{COMPARED}")
            claim = f"{name}: gold reward of the best of {COMPARED}, {better} - {worse}"
            rows.append(Finding(claim, more, "reward", 0.0, "above"))
        outside = [f"likelihood_{law}" for law in LAWS if law != "reference"]
        for claim, group, columns in (
            ("rank in and out of distribution, models and n together (Kendall's tau)", [*SETTING, "seed"], outside),
            ("the same among the models at each n", POINT, outside),
            (f"rank in distribution and by the best of {COMPARED}, at each n", POINT, [f"best_of_{COMPARED}"]),
        ):
            rows.append(Finding(f"{name}: {claim}", rank_agreement(here, group, columns), "", 0.0, "above"))
    once, again = (fits.filter(model="global", initialisation=start) for start in (0, 1))
    for claim, column, unit, margin in (
        ("likelihood in distribution", "likelihood_reference", "", EQUAL_SHARE),
        (f"gold reward of the best of {COMPARED}", f"best_of_{COMPARED}", "reward", EQUAL_REWARD),
    ):
        claim, apart = f"global, two initialisations: {claim}, first - second", difference(once, again, column)
        rows.append(Finding(claim, apart, unit, 0.0, "at", control=True, margin=margin))
    return rows


def difference(left: pl.DataFrame, right: pl.DataFrame, column: str) -> Estimate:
    """``left`` less ``right`` on the same pairs, averaged over points within a seed."""
    both = paired(left, right, POINT, "_right")
    return estimate(both, (pl.col(column) - pl.col(f"{column}_right")).mean())


def rank_agreement(fits: pl.DataFrame, group: list[str], columns: list[str]) -> Estimate:
    """Kendall's tau of the in-distribution likelihood with ``columns`` within a group, averaged within a seed."""

    def of_seed(rows: pl.DataFrame) -> float:
        taus = [
            kendall(here["likelihood_reference"].to_numpy(), here[column].to_numpy())
            for _, here in rows.group_by(group, maintain_order=True)
            for column in columns
        ]
        return float(np.mean(taus))

    return mean(each_seed(fits, of_seed))


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-a: share of pairs that both order alike less the share they order differently; a tie counts 0."""
    first, second = np.triu_indices(len(x), 1)
    return float(np.mean(np.sign(x[first] - x[second]) * np.sign(y[first] - y[second])))


LOOKS = {"global": (RLHF, "o"), "local": (THIRD, "^"), "DPO": (DPO, "s")}
TITLES = {"reference": "in distribution", "optimal": "soft-optimal policy", "rare": "inverse reference"}

CAPTIONS = {
    "h5_generalisation": (
        "Exact likelihood of labels that a reward model was not fitted to, for pairs of responses of the reference "
        "policy, which the training pairs come from, and of two other policies. Dashed: the gold reward itself, whose "
        "order is how many token positions it reads together; dotted: a coin. Points are means over seeds, bars 95 % "
        "intervals."
    ),
    "h5_likelihood_bars": (
        "Exact likelihood of labels in distribution by reward model and gold reward (its order is how many token "
        "positions it reads together), means over seeds with 95 % intervals; dotted: a coin. arXiv 2503.01067 "
        "reported .526 (DPO), .567 (local) and .593 (global) at 1.4B parameters."
    ),
    "h5_best_of_n": (
        "Gold reward of the best of n responses of the reference policy, chosen by each reward model. Dashed: chosen "
        "by the gold reward. Points are means over seeds, bars 95 % intervals."
    ),
}


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One row a setting (gold reward, size, tree), one column a law, and one column a number of pairs."""
    fits, gold = records["fits"].filter(initialisation=0), records["gold"]
    figures = {"h5_generalisation": _likelihoods(fits, gold), "h5_likelihood_bars": _bars(fits)}
    return figures | {"h5_best_of_n": _best_of_n(fits, gold)}


def _rows(fits: pl.DataFrame) -> list[dict]:
    return fits.select(SETTING).unique(maintain_order=True).sort(SETTING).to_dicts()


def _likelihoods(fits: pl.DataFrame, gold: pl.DataFrame) -> Figure:
    rows = _rows(fits)
    figure, grid = panels(len(rows), len(TITLES), sharey="row")
    for row, axes in zip(rows, grid, strict=True):
        for axis, (law, title) in zip(axes, TITLES.items(), strict=True):
            axis.set_xscale("log", base=2)
            for model, (colour, marker) in LOOKS.items():
                chosen, column = fits.filter(model=model, **row), f"likelihood_{law}"
                curve_of(axis, chosen, "pairs", column, model, marker=marker, color=colour)
            ceiling = estimate(_of_gold(gold, row), pl.col(f"likelihood_{law}").mean()).at().estimate
            axis.axhline(ceiling, color=BLACK, linestyle="--", linewidth=0.8, label="gold reward")
            axis.axhline(0.5, color="0.4", linestyle=":", linewidth=0.8, label="coin")
            shift = estimate(_of_gold(gold, row), pl.col(f"shift_{law}").mean()).at().estimate
            entitle(axis, title if law == "reference" else f"{title}, {shift:.1f} nats away", fits.filter(**row))
    name_axes(grid, "labels n [pairs]", [f"{plots.row_name(row, rows)}\nlikelihood [probability]" for row in rows])
    legend_below(figure)
    return figure


def _bars(fits: pl.DataFrame) -> Figure:
    sizes = sorted(fits["pairs"].unique())
    here = fits.filter(pairs=sizes[len(sizes) // 2], width=fits["width"].min())
    rows, mean = _rows(here), pl.col("likelihood_reference").mean()
    arms = {
        model: (LOOKS[model][0], [estimate(here.filter(model=model, **row), mean).at() for row in rows])
        for model in ("DPO", "local", "global")
    }
    figure, grid = panels(1, 1, 2.2)
    plots.bars(grid[0, 0], [plots.row_name(row, rows) for row in rows], arms)
    grid[0, 0].axhline(0.5, color="0.4", linestyle=":", linewidth=0.8, label="coin")
    entitle(grid[0, 0], TITLES["reference"], here)
    name_axes(grid, "gold reward [tokens read together]", "likelihood [probability]")
    legend_below(figure)
    return figure


def _best_of_n(fits: pl.DataFrame, gold: pl.DataFrame) -> Figure:
    rows, sizes = _rows(fits), sorted(fits["pairs"].unique())
    columns, n = [f"best_of_{n}" for n in BEST_OF], np.array(BEST_OF)
    figure, grid = panels(len(rows), len(sizes), sharey="row")
    for row, axes in zip(rows, grid, strict=True):
        for axis, pairs in zip(axes, sizes, strict=True):
            axis.set_xscale("log", base=2)
            for model, (colour, marker) in LOOKS.items():
                here = fits.filter(model=model, pairs=pairs, **row)
                values = by_seed(here, *(pl.col(column).mean() for column in columns)).values
                curve(axis, n, values, model, marker=marker, color=colour)
            best = [estimate(_of_gold(gold, row), pl.col(column).mean()).at().estimate for column in columns]
            axis.plot(n, best, color=BLACK, linestyle="--", linewidth=0.8, label="gold reward")
            entitle(axis, "", fits.filter(pairs=pairs, **row))
    name_axes(grid, "best of n [responses]", [f"{plots.row_name(row, rows)}\ngold reward [reward]" for row in rows])
    legend_below(figure)
    return figure


def _of_gold(gold: pl.DataFrame, row: dict) -> pl.DataFrame:
    return gold.filter(**{name: value for name, value in row.items() if name != "width"})
