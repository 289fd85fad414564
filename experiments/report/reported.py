"""What the paper reported, figure by figure, and which finding here stands beside each of its numbers.

The numbers are those of arXiv 2503.01067: win rates in percent of policies of 1.4B and 2.8B parameters on TL;DR, judged
by a model against human references, one training run each. Worlds and units differ, so that numbers are not compared;
what is compared is what they say.
"""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.kit.findings import Finding
from experiments.report.evidence import Evidence


class Reported(NamedTuple):
    """A row of a figure of the paper.

    Attributes:
      figure: of the paper.
      what, number: what was measured, and what was reported of it.
      name: the experiment that asks the same.
      part: of the claim of its finding: the first claim that has it; empty for the primary one.
      agrees: the verdict of that finding which says the same as the paper.
    """

    figure: str
    what: str
    number: str
    name: str
    part: str
    agrees: str


WIN_RATES, SIZES = "win rates of SFT, DPO and online DPO", "best-of-n by the sizes of policy and reward model"
TWO_WORDS, ROUGE = "two-word summaries", "ROUGE-L with a hidden reference as the reward"
REPORTED = (
    Reported(
        WIN_RATES, "DPO less SFT", "+23.5 points at 1.4B (26.2 to 49.7), +24.4 at 2.8B (30.5 to 54.9)",
        "main_table", "win rate of DPO less that of SFT", "supported",
    ),
    Reported(
        WIN_RATES, "a second epoch of DPO", "+2.5 points at 1.4B (49.7 to 52.2)",
        "main_table", "win rate of DPO, 2 epochs less that of DPO", "supported",
    ),
    Reported(
        WIN_RATES, "online DPO from SFT less DPO", "+6.4 points at 1.4B (49.7 to 56.1), +5.9 at 2.8B (54.9 to 60.8)",
        "main_table", "win rate of online DPO from SFT less that of DPO", "supported",
    ),
    Reported(
        WIN_RATES, "online DPO from DPO less DPO", "+9.6 points at 1.4B (49.7 to 59.3), +4.5 at 2.8B (54.9 to 59.4)",
        "main_table", "win rate of online DPO from DPO less that of DPO", "supported",
    ),
    Reported(
        "prompt augmentation", "more prompts for the online method",
        "+0.5 points (56.1 to 56.6), +0.4 (60.8 to 61.2): nothing",
        "h3_optimisation", "RL over all prompts instead of those with pairs", "equal",
    ),
    Reported(
        "pairs from the SFT policy alone", "RLHF against DPO", "win rates 56.8, 58.8 and 65.2: the gap persists",
        "h4_data", "pairs from the reference: regret", "supported",
    ),
    Reported(
        "held-out likelihood", "global less local reward models", "+.026 at 1.4B (.567 to .593)",
        "h5_generalisation", "likelihood in distribution, global - local", "supported",
    ),
    Reported(
        "held-out likelihood", "local reward models less DPO", "+.041 at 1.4B (.526 to .567)",
        "h5_generalisation", "likelihood in distribution, local - DPO", "supported",
    ),
    Reported(
        SIZES, "a larger policy", "wins more often", "h6a_model_sizes", "largest policy less the smallest", "supported",
    ),
    Reported(
        SIZES, "a larger reward model", "barely matters",
        "h6a_model_sizes", "largest reward model less the smallest", "equal",
    ),
    Reported(
        TWO_WORDS, "responses so short that writing is as easy as judging", "win rates 21.9 and 23.2: nearly no gap",
        "h6b_horizon", "order = H (one class, regularised in two ways), 512 pairs", "equal",
    ),
    Reported(
        TWO_WORDS, "longer responses", "the gap of the win rates above", "h6b_horizon", "", "supported",
    ),
    Reported(
        ROUGE, "a reward as complex as a policy", "ROUGE-L .354 and .352: no gap",
        "h6c_verifier_order", "order = H (one class, regularised in two ways), 512 pairs", "equal",
    ),
    Reported(
        ROUGE, "a simple reward", "the gap of the win rates above", "h6c_verifier_order", "", "supported",
    ),
)  # fmt: skip


class Compared(NamedTuple):
    """What was reported, beside what was measured on each backend."""

    reported: Reported
    measured: list[tuple[Evidence, Finding]]

    def sign(self, finding: Finding) -> str:
        """The same, for those who look."""
        return {"as reported": "✓", "not as reported": "✗", "undecided": "?"}[self.says(finding)]

    def says(self, finding: Finding) -> str:
        """Whether a finding says what the paper says, by its interval."""
        if finding.undecided:
            return "undecided"
        return "as reported" if finding.verdict.startswith(self.reported.agrees) else "not as reported"


def compared(evidence: Sequence[Evidence]) -> list[Compared]:
    """The rows of the paper's figures whose experiments are among the evidence."""
    return [
        Compared(row, [(each, finding) for each in of if (finding := each.claim_with(row.part))])
        for row in REPORTED
        if (of := [each for each in evidence if each.name == row.name])
    ]
