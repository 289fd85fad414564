"""Do implicit reward models fail because of token cues?

And must a policy be able to generate in order to verify?
Two settings of Razin et al. (arXiv 2507.07981) as exact sums. First, answers of one token: two groups of tokens, and
the prompt says which group is right. Labelled pairs use half of the tokens; accuracy is over all pairs of the other
half. The implicit reward model is a policy softmax(W h(x)) with one row of W a token. The explicit one is a linear head
on h(x, y) = h(x) x e(y), where tokens of a group have embeddings of cosine ``similarity``. All hidden features are
fixed. With similarity 0 the head's features are the policy's, with 1 a group is one token, and in between the head can
express exactly the policy's rewards with exactly as many parameters. Then the effective dimension d_eff is equal (and
infinite for unseen tokens, on both sides), so that the generation-verification gap predicts no difference where token
cues predict one.

Second, answers that close a Hamiltonian cycle of a graph. The reference policy gives them next to no probability,
labelled pairs put a cycle beside another answer half of the time. Does a policy that tells them apart write any, and
does RL with a learned verifier of one parameter, or with the gold reward, at the same beta?

On transformers no feature is fixed, and the explicit reward model is a transformer of the policy's own backbone with
a head of its own; they start at random, without what pretraining knows of tokens. Every token is also seen as a prompt,
where it says which group is right: an explicit model reads answers by the same embeddings, a policy writes them by
rows of its head. RL is gradient descent on the exact objective, in place of its closed form: what the reference policy
hardly ever writes hardly has a gradient, so that it may rest on a plateau, where a small gradient means no optimum.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from matplotlib.figure import Figure

from experiments.kit.backends import TREE, Backend
from experiments.kit.fields import check
from experiments.kit.findings import EQUAL_SHARE, Finding, Question, equality
from experiments.kit.intervals import Estimate, estimate, mean
from experiments.kit.per_seed import PerSeed, by_seed, paired
from experiments.kit.plots import BLACK, DPO, PALE, RLHF, curve_of, entitle, legend_below, name_axes, panels
from experiments.kit.presets import disjoint
from experiments.questions.rival_implicit_worlds import Program, judge_cycles, judge_tokens
from gvgap_jax import TokenTree, preferences
from gvgap_jax.sweep import Cell, Grid

MEANING = 2
QUESTION = Question(
    place=83,
    label="rival: token cues",
    claim="Implicit reward models lean on tokens, whatever the size of the classes, and verify what they cannot write.",
    reported="Razin et al., arXiv 2507.07981: with fixed features accuracy 0.5 on unseen single tokens, where a linear "
    "head generalises; an implicit reward model of Hamiltonian cycles of accuracy 0.99 that writes none (reported).",
    axes=("similarity", "test_share", "reference_mass", "beta", "pairs"),
)


@dataclass(frozen=True)
class Config:
    """Settings of one point of both parts.

    Attributes:
      vocabulary: tokens, as many prompts, and twice the tokens of a half; a multiple of 4.
      features: hidden features of a prompt; the first says which group is right. Transformers learn theirs.
      similarity: cosine of the embeddings of two tokens of a group, in (0, 1), for the head that is no smaller;
        transformers learn their embeddings.
      test_share: share of the labelled responses drawn from the half that is tested; 0 is unseen, 0.5 alike.
      vertices: how many the graph has, and tokens of an answer.
      reference_mass: probability that the reference policy gives to all correct answers.
      beta: strength of the KL regularisation in the second part, reward per nat; 1 in the first.
      margin: gold reward of a right answer less that of a wrong one, log odds of a label.
    """

    vocabulary: int = 8
    features: int = 3
    similarity: float = 0.5
    test_share: float = 0.0
    vertices: int = 4
    reference_mass: float = 1e-6
    beta: float = 1.0
    margin: float = 4.0
    pairs: int = 512

    def __post_init__(self):
        check(self, vocabulary=4)
        if self.vocabulary % 4:
            raise ValueError(f"vocabulary must be a multiple of 4, got {self.vocabulary}.")
        if not 0 <= self.test_share <= 1:
            raise ValueError(f"test_share must be between 0 and 1, got {self.test_share}.")


DIMENSION = "effective_dimension_trained"  # of fixed features; transformers have none
SAME = pl.col("similarity").is_between(0, 1, closed="none")  # heads of the policy's rewards and parameters
_AXES = {"test_share": (0.0, 0.02, 0.5), "reference_mass": (1e-6, 0.5)}
_FULL = {
    "vocabulary": (8, 16),
    "similarity": (0.1, 0.5, 0.9),
    "test_share": (0.0, 0.01, 0.1, 0.5),
    "reference_mass": (1e-9, 1e-6, 1e-3, 0.5),
    "beta": (0.1, 0.25, 0.35, 0.5, 0.7, 1.0, 2.0),
    "pairs": tuple(2**power for power in range(5, 14)),
}
PRESETS = disjoint(
    {
        "tiny": Grid(_AXES | {"vocabulary": (4,), "vertices": (3,), "pairs": (32,), "beta": (0.25, 1.0)}, seeds=2),
        "quick": Grid(_AXES | {"pairs": (32, 256, 1024), "beta": (0.25, 0.5, 1.0)}, seeds=24),
        "standard": Grid(_AXES | {"pairs": (32, 128, 256, 1024), "beta": (0.25, 0.35, 0.5, 0.7, 1.0)}, seeds=32),
        "paper": Grid(_AXES | {"pairs": (32, 128, 512, 2048, 8192), "beta": (0.25, 0.35, 0.5, 0.7, 1.0)}, seeds=64),
        "full": Grid(_FULL, seeds=128),
    }
)
TRANSFORMER_PRESETS = disjoint(
    PRESETS
    | {
        "quick": Grid(_AXES | {"pairs": (64, 512), "beta": (0.25, 1.0)}, seeds=24),
        "standard": Grid(_AXES | {"pairs": (64, 512), "beta": (0.25, 0.5, 1.0)}, seeds=32),
        "full": Grid({name: values for name, values in _FULL.items() if name != "similarity"}, seeds=128),
    }
)


def cells(config: Config, backend: Backend = TREE) -> list[Cell]:
    """Part one: the policy and three heads, or one reward model of its backbone.

    Part two: DPO, and RL with a learned one-parameter verifier.
    """
    padded = preferences.padded(config.pairs, smallest=1024)
    answers = TokenTree(config.vocabulary, 1, prompt_length=1)
    cycles = TokenTree(config.vertices, config.vertices)
    shared = {"pairs": config.pairs, "margin": config.margin}
    made = []
    if backend is TREE:
        features, heads = config.features, [0.0, config.similarity, 1.0]
        arms = [("implicit", {"similarity": 0.0}), *(("explicit", {"similarity": cosine}) for cosine in heads)]
    else:
        features, arms = 0, [("implicit", {}), ("explicit", {})]
    for arm, similarity in arms:
        labels: dict[str, str | int] = {"arm": arm, "vocabulary": config.vocabulary, "features": features}
        numbers = {**shared, "test_share": config.test_share, **similarity}
        made.append(Cell("tokens", Program(arm, answers, features, padded), labels, numbers))
    for arm in ("DPO", "RLHF"):
        labels = {"arm": arm, "vertices": config.vertices}
        numbers = {**shared, "beta": config.beta, "reference_mass": config.reference_mass}
        made.append(Cell("cycles", Program(arm, cycles, 0, padded), labels, numbers))
    return made


def run(program: Program, cell: dict, backend: Backend = TREE) -> dict:
    """One fit of one arm, as scalars."""
    judge = judge_tokens if program.arm in ("implicit", "explicit") else judge_cycles
    return judge(program, cell, backend)


def findings(records: dict[str, pl.DataFrame]) -> list[Finding]:
    """Token cues first, where they and the gap part; then verifying without generating; then the controls."""
    tokens, cycles = records["tokens"], records["cycles"]
    most = max(tokens["pairs"])
    unseen = tokens.filter(pairs=most, test_share=0)
    rows = []
    if len(unseen):
        where = f"unseen tokens, {most:,} pairs"
        for claim, heads in _heads(tokens).items():
            claim = f"{where}, {claim}: accuracy gained"
            rows.append(Finding(claim, head_less_policy(unseen, heads), "", 0.1, "above"))
        implicit = _mean(unseen.filter(arm="implicit"), "accuracy_tested")
        claim = f"{where}: accuracy of the implicit reward model"
        rows.append(Finding(claim, implicit, "", 0.5, "at", margin=EQUAL_SHARE))
    return rows + _cycle_findings(cycles.filter(pairs=most), most) + _controls(tokens, cycles)


def _equals(tokens: pl.DataFrame) -> dict[str, pl.Expr]:
    """The explicit reward models that are as expressive as the policy: what they are, and which rows."""
    if DIMENSION not in tokens.columns:
        return {"explicit reward model of the policy's own backbone": pl.lit(True)}
    cosines = sorted(tokens.filter(SAME)["similarity"].unique())
    return {
        f"head that can express the policy's rewards{f' (cosine {each:.3g})' if len(cosines) > 1 else ''}": (
            pl.col("similarity") == pl.lit(each, pl.Float32)
        )
        for each in cosines
    }


def _heads(tokens: pl.DataFrame) -> dict[str, pl.Expr]:
    """The explicit reward models that are compared with the policy: what they are, and which rows."""
    if DIMENSION not in tokens.columns:
        return _equals(tokens)
    why = "of as many parameters and the same d_eff (token cues say yes, the gap says no)"
    group = "head with one embedding for each group (smaller d_eff: both explanations say yes)"
    return {f"{name}, {why}": heads for name, heads in _equals(tokens).items()} | {group: pl.col("similarity") == 1}


def _cycle_findings(cycles: pl.DataFrame, pairs: int) -> list[Finding]:
    cycles = cycles.filter(reference_mass=cycles["reference_mass"].min())
    weak, strong = (cycles.filter(beta=beta) for beta in (cycles["beta"].max(), cycles["beta"].min()))
    dpo, rlhf = (weak.filter(arm=arm) for arm in ("DPO", "RLHF"))
    where = f"cycles, reference mass {cycles['reference_mass'][0]:.3g}, {pairs:,} pairs, beta {weak['beta'][0]:.3g}"
    rows = [
        Finding(f"{where}: accuracy of the policy's own reward", _mean(dpo, "accuracy"), "", 0.99, "above"),
        Finding(f"{where}: probability that this policy writes a cycle", _mean(dpo, "mass"), "", 1e-3, "below"),
        Finding(f"{where}: RL with a one-parameter verifier writes one", _mean(rlhf, "mass"), "", 1e-3, "below"),
        Finding(f"{where}: RL with the gold reward writes one", _mean(rlhf, "mass_gold"), "", 1e-3, "below"),
    ]
    if strong["beta"][0] < weak["beta"][0]:
        where = f"the same, beta {strong['beta'][0]:.3g}: RL with a one-parameter verifier less the policy of DPO"
        gained = mean(_rlhf_less_dpo(strong, "accuracy")), mean(_rlhf_less_dpo(strong, "mass"))
        rows += [
            Finding(f"{where}, accuracy", gained[0], "", 0.01, "below"),
            Finding(f"{where}, probability of a cycle (the gap says more)", gained[1], "", 0.1, "above"),
        ]
    return rows


def _controls(tokens: pl.DataFrame, cycles: pl.DataFrame) -> list[Finding]:
    alike = tokens.filter(test_share=0.5, pairs=tokens["pairs"].max())
    rows = _fixed_feature_controls(tokens) if DIMENSION in tokens.columns else []
    for name, heads in _equals(tokens).items() if len(alike) else ():
        claim = f"tested tokens trained as often as the others, {name}: accuracy gained"
        gained = head_less_policy(alike, heads)
        rows.append(Finding(claim, gained, "", 0.0, "at", control=True, margin=EQUAL_SHARE))
    plain = cycles.filter(
        arm="DPO", reference_mass=0.5, beta=cycles["beta"].min(), pairs=cycles["pairs"].max()
    ).with_columns(blocked=pl.col("accuracy") - pl.col("mass"))
    if len(plain):
        claim = "reference writes a cycle half of the time, smallest beta: accuracy less probability of a cycle, DPO"
        rows.append(Finding(claim, _mean(plain, "blocked"), "", 0.1, "below", control=True))
    return rows


def _fixed_feature_controls(tokens: pl.DataFrame) -> list[Finding]:
    own = pl.col("similarity") == 0
    dimensions = _joined(tokens, SAME, DIMENSION).with_columns(pl.col("head") / pl.col("policy"))
    apart, bound = pl.col("head") - pl.col("policy"), 0.01  # of accuracy
    claim = "head on the policy's own features: largest difference of accuracy on unseen tokens, over n and shares"
    same_features = equality(claim, _joined(tokens, own, "accuracy_tested"), apart, bound, "")
    claim = "head that can express the policy's rewards: largest |log of d_eff(head) / d_eff(policy)| on trained tokens"
    return [same_features, equality(claim, dimensions, pl.col("head").log(), 1e-3, "")]  # of a logarithm


def head_less_policy(tokens: pl.DataFrame, heads: pl.Expr) -> Estimate:
    """Accuracy on tested tokens of the chosen heads less that of the policy, paired by seed."""
    both = _joined(tokens, heads, "accuracy_tested")
    return estimate(both, (pl.col("head") - pl.col("policy")).mean())


def _joined(tokens: pl.DataFrame, heads: pl.Expr, column: str) -> pl.DataFrame:
    """``column`` of the policy and of the chosen heads on the same data, as columns ``policy`` and ``head``."""
    point = ["vocabulary", "features", "test_share", "pairs", "margin", "seed"]
    policy, head = tokens.filter(arm="implicit"), tokens.filter(heads, arm="explicit")
    both = paired(head, policy, point, "_policy", shared=True)
    return both.with_columns(head=pl.col(column), policy=pl.col(f"{column}_policy"))


def _rlhf_less_dpo(cycles: pl.DataFrame, column: str) -> PerSeed:
    rlhf, dpo = (by_seed(cycles.filter(arm=arm), pl.col(column).mean()) for arm in ("RLHF", "DPO"))
    return rlhf - dpo


def _mean(rows: pl.DataFrame, column: str) -> Estimate:
    return estimate(rows, pl.col(column).mean())


CAPTIONS = {
    "rival_implicit_tokens": (
        "Accuracy of reward models on pairs of tokens that no training pair names (left), that a few name, and that "
        "half of them name (right). A policy has parameters of its own for every token and says nothing about a new "
        "one. A head with the same number of parameters and the same reward functions, but features in which tokens "
        "of a group resemble each other, ranks them: the number of dimensions is not what decides here. On "
        "transformers: a policy, and a reward model of its backbone that has read all tokens as prompts. Points are "
        "means over seeds, bars 95 % intervals."
    ),
    "rival_implicit_cycles": (
        "A policy fitted by DPO to pairs of Hamiltonian cycles and other answers. Its own reward ranks all of them "
        "(orange, dashed), but it writes a cycle (orange, solid) only where the reference policy does (right) or beta "
        "is small; nor does RL with a learned one-parameter verifier (blue) or with the gold reward (black). Where "
        "the KL term lets a cycle through, RL with the small verifier writes far more of them than DPO at equal "
        "accuracy. Points are means over seeds, bars 95 % intervals."
    ),
}

_ARMS = (  # arm, which similarity, label, look
    ("implicit", pl.col("similarity") == 0, "policy: a row a token", {"color": DPO, "marker": "s"}),
    ("explicit", pl.col("similarity") == 0, "head, the policy's features (control)",
     {"color": BLACK, "marker": "x", "linestyle": "none"}),
    ("explicit", pl.col("similarity") == 1, "head, one embedding a group", {"color": PALE, "linestyle": "--"}),
)  # fmt: skip
_TRANSFORMERS = (
    ("implicit", pl.lit(True), "policy: a transformer", {"color": DPO, "marker": "s"}),
    ("explicit", pl.lit(True), "reward model of the policy's own backbone", {"color": RLHF}),
)


def draw(records: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    """One figure a part of the experiment, with 95 % intervals over seeds."""
    return {
        "rival_implicit_tokens": _tokens(records["tokens"]),
        "rival_implicit_cycles": _cycles(records["cycles"]),
    }


def _arms(tokens: pl.DataFrame) -> Sequence[tuple[str, pl.Expr, str, dict]]:
    if DIMENSION not in tokens.columns:
        return _TRANSFORMERS
    equals = zip(_equals(tokens).items(), itertools.cycle("o^vD"), strict=False)
    heads = (("explicit", which, name, {"color": RLHF, "marker": marker}) for (name, which), marker in equals)
    return [*_ARMS[:-1], *heads, _ARMS[-1]]


def _tokens(tokens: pl.DataFrame) -> Figure:
    shares = sorted(tokens["test_share"].unique())
    figure, grid = panels(1, len(shares), 1.9)
    for axis, share in zip(grid[0], shares, strict=True):
        axis.set_xscale("log", base=2)
        axis.axhline(0.5, color="0.6", linewidth=0.8, zorder=1)
        for arm, which, label, look in _arms(tokens):
            here = tokens.filter(which, arm=arm, test_share=share)
            curve_of(axis, here, "pairs", "accuracy_tested", label, **look)
        entitle(axis, f"{share:.3g} of responses are tested tokens", tokens.filter(test_share=share))
    name_axes(grid, "labels n [pairs]", "accuracy on tested tokens [share]")
    legend_below(figure)
    return figure


def _cycles(cycles: pl.DataFrame) -> Figure:
    cycles = cycles.filter(pairs=cycles["pairs"].max())
    masses = sorted(cycles["reference_mass"].unique())
    figure, grid = panels(1, len(masses), 1.9)
    for axis, mass in zip(grid[0], masses, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        dpo, rlhf = (cycles.filter(reference_mass=mass, arm=arm) for arm in ("DPO", "RLHF"))
        dashed, gold = {"linestyle": "--", "marker": "s"}, {"linestyle": ":", "marker": "x"}
        curve_of(axis, dpo, "beta", "accuracy", "accuracy of DPO's reward", color=DPO, **dashed)
        curve_of(axis, dpo, "beta", "mass", "written by DPO", color=DPO, marker="s")
        curve_of(axis, rlhf, "beta", "mass", "written by RL, one-parameter verifier", color=RLHF)
        curve_of(axis, rlhf, "beta", "mass_gold", "written by RL, gold reward", color=BLACK, **gold)
        axis.axhline(mass, color="0.6", linewidth=0.8, zorder=1, label="reference policy")
        entitle(axis, f"reference mass of cycles {mass:.3g}", cycles.filter(reference_mass=mass))
    name_axes(grid, "beta [reward per nat]", "accuracy, cycles written [probability]")
    legend_below(figure)
    return figure
