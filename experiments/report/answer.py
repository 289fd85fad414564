"""The answer in five sentences: each is made of one finding, and its words follow from that finding's verdict."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import polars as pl
from markupsafe import Markup

from experiments.kit import points
from experiments.kit.backends import BackendName, named
from experiments.kit.findings import Finding
from experiments.questions import questions
from experiments.report.evidence import Evidence, Picture, png_of
from experiments.report.words import between, described, number


class Headline(NamedTuple):
    """What a sentence of the answer is made of.

    Attributes:
      name, backend: the experiment.
      parts: of the claim of its finding: the first claim that has them all.
      says: sentence by verdict; ``{value}`` is the estimate with its interval.
      what: the same in a noun phrase, for where nothing was measured.
      label: what its number is, where it is one of the three; empty where it is not.
    """

    name: str
    backend: BackendName
    parts: tuple[str, ...]
    says: Mapping[str, str]
    what: str
    label: str = ""


PAIRS = "pairs that DPO needs"
EXPLAINED = "variance of log regret that theory explains"
TIMES = "{value} as many labelled pairs for the same regret"
HEADLINES = (
    Headline(
        "equivalence",
        "tree",
        (),
        {
            "supported": "If reward models can express exactly what policies can, two-stage RLHF and DPO end at the "
            "same policy, as Theorem 2.2 says: they are {value} apart.",
            "contradicted": "If reward models can express exactly what policies can, two-stage RLHF and DPO end at "
            "different policies, against Theorem 2.2: they are {value} apart.",
            "undecided": "Whether two-stage RLHF and DPO end at the same policy if reward models can express exactly "
            "what policies can (Theorem 2.2) is undecided: they are {value} apart.",
        },
        "How far apart the methods end if reward models express exactly what policies can (Theorem 2.2)",
    ),
    Headline(
        "sample_complexity",
        "tree",
        (PAIRS, "simple gold reward"),
        {
            "supported": f"Where the gold reward is simple and the reference policy uniform, RLHF wins: DPO needs "
            f"{TIMES}.",
            "contradicted": f"Where the gold reward is simple and the reference policy uniform, RLHF loses, against "
            f"the hypothesis: DPO needs {TIMES}.",
            "undecided": f"Where the gold reward is simple and the reference policy uniform, it is undecided whether "
            f"RLHF needs fewer pairs: DPO needs {TIMES}.",
        },
        "How many more pairs DPO needs where the gold reward is simple",
        "pairs of DPO for each pair of RLHF, where the gold reward is simple",
    ),
    Headline(
        "sample_complexity",
        "tree",
        (PAIRS, "full table gold reward"),
        {
            "equal": f"Where the gold reward is as complex as a policy, the advantage is gone: DPO needs {TIMES}.",
            "different: above": f"Where the gold reward is as complex as a policy, an advantage remains, against the "
            f"hypothesis: DPO needs {TIMES}.",
            "different: below": f"Where the gold reward is as complex as a policy, the advantage is gone, and RLHF "
            f"even loses: DPO needs {TIMES}.",
            "undecided": f"Where the gold reward is as complex as a policy, it is undecided whether the methods are "
            f"level: DPO needs {TIMES}.",
        },
        "How many more pairs DPO needs where the gold reward is as complex as a policy",
        "pairs of DPO for each pair of RLHF, where the gold reward is as complex as a policy",
    ),
    Headline(
        "few_pairs",
        "tree",
        (EXPLAINED,),
        {
            "supported": "Theory alone, without any fit, predicts regret as well as a repetition of the experiment "
            "would: it explains a share of {value} of the variance that can be explained.",
            "contradicted": "Theory alone, without any fit, predicts regret worse than a repetition of the experiment "
            "would: it explains a share of {value} of the variance that can be explained.",
            "undecided": "Whether theory alone, without any fit, predicts regret as well as a repetition of the "
            "experiment would is undecided: it explains a share of {value} of the variance that can be explained.",
        },
        "How well theory alone predicts regret",
        "of the variance of log regret that can be explained is explained by theory alone",
    ),
    Headline(
        "sample_complexity",
        "transformer",
        (PAIRS, "simple gold reward"),
        {
            "supported": f"The same holds of small transformers and a simple gold reward: DPO needs {TIMES}.",
            "contradicted": f"It does not hold of small transformers: with a simple gold reward DPO needs {TIMES}.",
            "undecided": f"Whether it holds of small transformers is undecided: with a simple gold reward DPO needs "
            f"{TIMES}.",
        },
        "How many more pairs DPO needs if both methods train small transformers",
    ),
)
PICTURED = "sample_complexity"  # whose figure stands beside the answer


class Number(NamedTuple):
    """One of the three numbers: what it is, its finding, and the experiment that it is of."""

    label: str
    finding: Finding
    evidence: Evidence


class Answer(NamedTuple):
    """What stands above everything else: sentences, at most three numbers, and a figure."""

    sentences: list[Markup]
    numbers: list[Number]
    picture: Picture | None
    alternative: str


def answer(evidence: Sequence[Evidence]) -> Answer:
    """The answer that the evidence gives; it speaks only of experiments that are among it."""
    there = {each.key: each for each in evidence}
    told = [(each, there[key]) for each in HEADLINES if (key := named(each.name, each.backend)) in there]
    sentences = [sentence(*pair) for pair in told]
    numbers = [
        Number(each.label, finding, of) for each, of in told if each.label and (finding := of.claim_with(*each.parts))
    ]
    pictured = there.get(PICTURED)
    drawn = picture(pictured) if pictured else None
    return Answer(sentences, numbers, drawn, described(pictured, drawn) if pictured and drawn else "")


def sentence(headline: Headline, evidence: Evidence) -> Markup:
    """What the evidence says, with its number; or the command that would make it say something."""
    finding = evidence.claim_with(*headline.parts)
    if finding is None:
        why = f"is not in the records of preset {evidence.preset}" if evidence.readable else "is not measured yet"
        command = evidence.command.partition(" --preset")[0] if evidence.readable else evidence.command
        return Markup("{} {}: <code>{}</code>").format(headline.what, why, command)
    outcome, _, why = finding.verdict.partition(" within")[0].partition(": ")
    outcome = outcome if outcome == "undecided" or not why else f"{outcome}: {why}"
    estimate = f"{number(finding.interval.estimate)} {finding.unit}".strip()
    value = Markup("<b>{}</b> ({})").format(estimate, between(finding))
    said = Markup(headline.says[outcome]).format(value=value)
    controls = [each for each in evidence.controls if each.point in ("", finding.point)]
    failing = sum(not each.passes for each in controls)
    doubts = [why] if outcome == "undecided" and why else []
    doubts += [f"{failing} of the {len(controls)} controls did not pass"] if failing else []
    return Markup("{} ({}).").format(Markup(said.removesuffix(".")), "; ".join(doubts)) if doubts else said


def picture(evidence: Evidence) -> Picture | None:
    """The figure of an experiment, of its longest responses alone, whose panels fit beside the answer."""
    if not evidence.pictures:
        return None
    first, *_ = evidence.pictures
    module = questions()[evidence.name]
    (point, *_) = points.points(module, evidence.records)  # whose figures come first
    longest = max(max(frame["horizon"].unique()) for frame in point.records.values())
    drawn = module.draw({table: frame.filter(pl.col("horizon") == longest) for table, frame in point.records.items()})
    try:
        return first._replace(png=png_of(drawn[first.title.removesuffix(point.suffix)]))
    finally:
        plt.close("all")
