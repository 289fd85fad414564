"""Tables of Markdown files that are made from records: what the first pages quote, verdicts, findings, figures."""

import re
from collections.abc import Mapping, Sequence

from experiments.kit.findings import Finding, tally
from experiments.kit.presets import BACKEND_NAMES
from experiments.kit.shipped import SHIPPED
from experiments.kit.terminal import markdown
from experiments.report.evidence import Evidence
from experiments.report.page import Section, sections
from experiments.report.quoted import quoted
from experiments.report.reported import compared
from experiments.report.words import between, number
from gvgap_jax.runtime.messages import unknown

RUN = "python -m experiments "
END = "<!-- end -->"


def tables(evidence: Sequence[Evidence]) -> dict[str, str]:
    """Name of each table and its Markdown: of all experiments, and ``findings NAME`` of each."""
    ordered = sections(evidence)
    return {
        "quoted": _quoted(evidence),
        "verdicts": _verdicts(ordered),
        "reported": _reported(evidence),
        "figures": _figures([section.tree for section in ordered]),
    } | {f"findings {section.tree.name}": _findings(section) for section in ordered}


def asked_for(name: str, text: str, made: Mapping[str, str]) -> dict[str, str]:
    """The tables that the text of the file ``name`` has a place for.

    Raises:
      ValueError: it has a place for none, or for one that there is not.
    """
    places = re.findall(r"<!-- table: (.*?) -->", text)
    if not places:
        raise ValueError(f"{name} has no place for a table: put <!-- table: quoted --> and {END} where one shall be.")
    for place in places:
        if place not in made:
            raise ValueError(f"{name}: {unknown('table', place, made)}")
    return {place: made[place] for place in places}


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


def _quoted(evidence: Sequence[Evidence]) -> str:
    shared = f" --preset {SHIPPED}"
    rows = [
        (row.says, _estimate(finding), f"`{of.command.removeprefix(RUN).removesuffix(shared)}`")
        for row, of, finding in quoted(evidence)
    ]
    return markdown(("finding", "number (95 % interval)", f"`{RUN.strip()}` … `{shared.strip()}`"), rows)


def _reported(evidence: Sequence[Evidence]) -> str:
    rows = []
    for each in compared(evidence):
        here = {of.backend: f"{_estimate(finding)}: {each.says(finding)}" for of, finding in each.measured}
        row = each.reported
        sides = (here.get(backend, "–") for backend in BACKEND_NAMES)
        rows.append((row.figure, row.what, row.number, f"`{row.name}`", *sides))
    return markdown(("figure of the paper", "what", "reported", "experiment", "on trees", "on transformers"), rows)


def _findings(section: Section) -> str:
    headings = ("finding", "on trees", "verdict", "on transformers", "verdict")
    rows = [
        (
            ("control: " if row.either.control else "") + f"{row.either.claim} ({row.either.estimand})",
            *(text for finding in (row.tree, row.transformer) for text in _beside(finding)),
        )
        for row in (*section.claims, *section.controls)
    ]
    kept = 5 if section.transformer and section.transformer.readable else 3
    return markdown(headings[:kept], [row[:kept] for row in rows])


def _beside(finding: Finding | None) -> tuple[str, str]:
    return ("–", "–") if finding is None else (_estimate(finding), _verdict(finding))


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
            each.about.figure or "–",
        )
        for each in evidence
    ]
    return markdown(("figure", "command", "of the paper"), rows)
