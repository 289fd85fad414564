"""Tables of a Markdown file that are made from records: verdicts by hypothesis, and the command behind each figure."""

import re
from collections.abc import Mapping, Sequence

from experiments.kit.findings import Finding, tally
from experiments.kit.terminal import markdown
from experiments.report.evidence import Evidence
from experiments.report.page import Section, sections
from experiments.report.words import between, number

END = "<!-- end -->"


def tables(evidence: Sequence[Evidence]) -> dict[str, str]:
    """Name of each table and its Markdown."""
    ordered = sections(evidence)
    return {"verdicts": _verdicts(ordered), "figures": _figures([section.tree for section in ordered])}


def rewritten(text: str, made: Mapping[str, str]) -> str:
    """``text`` with each table between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Raises:
      ValueError: the markers of a table are not there.
    """
    for name, table in made.items():
        start = f"<!-- table: {name} -->"
        between_markers = re.compile(f"{re.escape(start)}.*?{re.escape(END)}", re.DOTALL)
        if not between_markers.search(text):
            raise ValueError(f"the file has no place for the table {name!r}: put {start} and {END} where it shall be.")
        text = between_markers.sub(lambda _, new=f"{start}\n{table}\n{END}": new, text)
    return text


def _verdicts(ordered: Sequence[Section]) -> str:
    rows = []
    for each, transformer in ordered:
        again = _on_transformers(transformer)
        passing = tally(each.controls)
        name = f"`{each.name}`, {each.preset}"
        if not each.claims:
            rows.append((each.about.label, name, each.about.claim, "–", "no verdict", "–", again))
            continue
        finding = each.claims[0]
        claim = f"{finding.claim} ({finding.estimand})"
        rows.append((each.about.label, name, claim, _estimate(finding), _verdict(finding), passing, again))
    headings = (
        "place",
        "experiment, preset",
        "primary finding",
        "estimate (95 % interval)",
        "verdict",
        "controls",
        "primary finding on transformers",
    )
    return markdown(headings, rows)


def _on_transformers(evidence: Evidence | None) -> str:
    if evidence is None or not evidence.claims:
        return "–"
    finding = evidence.claims[0]
    return f"{finding.claim}: {_estimate(finding)}, {_verdict(finding)}; preset {evidence.preset}"


def _estimate(finding: Finding) -> str:
    return f"{number(finding.interval.estimate)} {finding.unit}".strip() + f" ({between(finding)})"


def _verdict(finding: Finding) -> str:
    return "; ".join(filter(None, (finding.verdict, finding.theory, finding.remark)))


def _figures(evidence: Sequence[Evidence]) -> str:
    rows = [
        (
            ", ".join(f"`{title}`" for title in each.captions),
            f"`{each.command}`",
            f"`{each.folder}`",
            each.about.figure or "–",
        )
        for each in evidence
    ]
    return markdown(("figure", "command", "records", "of the paper"), rows)
