"""The findings that the first pages quote: the README's table, and that of the documentation."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.kit.backends import BackendName, named
from experiments.kit.findings import Finding
from experiments.report.answer import EXPLAINED, PAIRS
from experiments.report.evidence import Evidence


class Quoted(NamedTuple):
    """A row of the table.

    Attributes:
      says: what was measured, in the words of somebody who reads of it for the first time.
      name, backend: the experiment.
      parts: of the claim of its finding: the first claim that has them all; none for the primary one.
    """

    says: str
    name: str
    backend: BackendName = "tree"
    parts: tuple[str, ...] = ()


SKEWED = "reference of s.d. 1.5"  # where a claim of that point says so
QUOTED = (
    Quoted(
        "simple gold reward (order 2 of 6): pairs that DPO needs for each pair of RLHF, at equal regret",
        "sample_complexity", "tree", (PAIRS, "simple gold reward"),
    ),
    Quoted(
        "the same, with a skewed reference policy (its logits have a standard deviation of 1.5, and not 0)",
        "sample_complexity", "tree", (SKEWED, PAIRS, "simple gold reward"),
    ),
    Quoted(
        "gold reward a full table, uniform reference: the same",
        "sample_complexity", "tree", (PAIRS, "full table gold reward"),
    ),
    Quoted("the same on small transformers, order 1 of 4", "sample_complexity", "transformer", (PAIRS, "simple gold")),
    Quoted(
        "… if the reward model is the policy's own network",
        "sample_complexity", "transformer", ("simple gold", "own backbone"),
    ),
    Quoted(
        "one pretrained network for both, skewed reference, simple gold reward, 512 pairs: regret of DPO over RLHF's",
        "same_backbone",
    ),
    Quoted("equal classes (Theorem 2.2): largest KL between the two methods' policies", "equivalence"),
    Quoted(
        "reward models too simple for the gold reward: regret of DPO less that of RLHF",
        "phase_diagram", "tree", ("too simple",),
    ),
    Quoted(
        "theory alone, without a fit: share that it explains of the variance of log regret that repetitions leave",
        "few_pairs", "tree", (EXPLAINED,),
    ),
    Quoted("the same, with the skewed reference policy", "few_pairs", "tree", (SKEWED, EXPLAINED)),
    Quoted(
        "DPO with a prior, a ridge that grows with degree: share that it closes of the gap to RLHF in log regret",
        "prior_geometry", "tree", ("gold order 1", "share of the log gap"),
    ),
    Quoted("online DPO from SFT, one batch round: win rate over DPO (paper: +6.4)", "main_table"),
)  # fmt: skip


def quoted(evidence: Sequence[Evidence]) -> list[tuple[Quoted, Evidence, Finding]]:
    """The rows whose experiments were measured, with the finding of each."""
    there = {each.key: each for each in evidence}
    rows = [(row, there[key]) for row in QUOTED if (key := named(row.name, row.backend)) in there]
    return [(row, of, finding) for row, of in rows if (finding := of.claim_with(*row.parts))]
