"""The report as one HTML page that needs nothing else."""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup, escape

from experiments.kit.backends import named
from experiments.kit.findings import SIMULTANEOUS, Finding, tally
from experiments.kit.terminal import MEANINGS
from experiments.report.evidence import Evidence


class Row(NamedTuple):
    """One claim with its finding on the tree and on transformers, where it has one."""

    claim: str
    tree: Finding | None
    transformer: Finding | None

    @property
    def either(self) -> Finding:
        """The finding whose bound and direction both share."""
        return self.tree or self.transformer  # pyright: ignore


class Section(NamedTuple):
    """One experiment: its evidence on the tree and, where it runs there, on transformers."""

    tree: Evidence
    transformer: Evidence | None

    @property
    def sides(self) -> list[Evidence]:
        """The evidence there is."""
        return [each for each in self if each is not None]

    @property
    def claims(self) -> list[Row]:
        """The claims of both, side by side."""
        return side_by_side(*(each.claims if each else [] for each in self))

    @property
    def controls(self) -> list[Row]:
        """The controls of both, side by side."""
        return side_by_side(*(each.controls if each else [] for each in self))


def side_by_side(tree: Sequence[Finding], transformer: Sequence[Finding]) -> list[Row]:
    """Findings matched by their claims, in the order of the first ones; what one side alone claims keeps its row."""
    left, right = ({finding.claim: finding for finding in findings} for findings in (tree, transformer))
    return [Row(claim, left.get(claim), right.get(claim)) for claim in left | right]


def sections(evidence: Sequence[Evidence]) -> list[Section]:
    """One an experiment, by place in the argument."""
    there = {each.key: each for each in evidence}
    trees = sorted((each for each in evidence if each.backend == "tree"), key=lambda each: each.about.place)
    return [Section(each, there.get(named(each.name, "transformer"))) for each in trees]


def page(evidence: Sequence[Evidence]) -> str:
    """The report as HTML in UTF-8; styles and images are in it, and it may load or run nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number, "prose": prose, "embedded": embedded, "mark": mark, "bar": bar, "between": between,
        "tally": tally, "level": level,
    }  # fmt: skip
    findings = [finding for each in evidence for finding in each.findings]
    ordered = sections(evidence)
    sides = [each for section in ordered for each in section.sides]
    failing = [(each, finding) for each in sides for finding in each.controls if not finding.passes]
    template = environment.get_template("page.html.jinja")
    text = template.render(
        sections=ordered,
        controls=[finding for finding in findings if finding.control],
        failing=failing,
        simultaneous=SIMULTANEOUS,
        meanings=MEANINGS,
    )
    return text.encode(errors="backslashreplace").decode()  # a path may hold bytes that are no text


def number(value: float) -> str:
    """Three significant digits, as they are printed in a paper."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".removesuffix(".")
    mantissa, _, exponent = text.replace("-", "−").partition("e")
    if not exponent:
        return mantissa
    digits = str(int(exponent.replace("−", "-"))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{digits}"


def between(finding: Finding) -> str:
    """The interval in words."""
    return f"{number(finding.interval.low)} to {number(finding.interval.high)}"


def level(finding: Finding) -> str:
    """The level of the interval, in percent."""
    return f"{100 * finding.level:.4g} %"


def mark(finding: Finding) -> str:
    """The word that styles a verdict: its first one."""
    return re.split(r"\W", finding.verdict)[0]


def prose(text: str) -> Markup:
    """Text with its ``code`` set as code, and arXiv numbers as links."""
    marked = re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"arXiv:? ?(\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', marked))


def embedded(content: bytes | str, kind: str) -> str:
    """Content as a data: address."""
    encoded = base64.b64encode(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
    return f"data:{kind};base64,{encoded.decode()}"


class Bar(NamedTuple):
    """Places in percent of a small picture's width: an interval, its estimate and the bound, or a margin's ends."""

    low: float
    estimate: float
    high: float
    bounds: tuple[float, ...]


def bar(finding: Finding) -> Bar | None:
    """Where an interval lies beside its bound; ratios on a logarithmic scale. None where it has no finite ends."""
    limits = sorted(set(finding.limits))
    values = np.array([finding.interval.low, finding.interval.estimate, finding.interval.high, *limits])
    if finding.unit == "times" and (values > 0).all():
        values = np.log(values)
    if not np.isfinite(values).all():
        return None
    span = np.ptp(values)
    places = 8 + 84 * (values - values.min()) / span if span else np.full(len(values), 50.0)
    low, estimate, high, *bounds = (round(float(place), 1) for place in places)
    return Bar(low, estimate, high, tuple(bounds))
