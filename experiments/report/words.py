"""How numbers, intervals and verdicts are written in a report."""

import base64
import hashlib
import re
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from experiments.kit.findings import Finding
from experiments.report.evidence import Evidence, Picture

SHAPES = {"supported": "✓", "contradicted": "✗", "equal": "=", "different": "≠", "undecided": "?"}  # beside each word


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
    low, high = finding.interval.low, finding.interval.high
    return f"{number(low)} to {number(high)}" if np.isfinite([low, high]).any() else "no finite interval"


def level(finding: Finding) -> str:
    """The level of the interval, in percent."""
    return f"{100 * finding.level:.4g} %"


def mark(finding: Finding) -> str:
    """The word that styles a verdict: its first one."""
    return re.split(r"\W", finding.verdict)[0]


def shape(finding: Finding) -> str:
    """The sign of a verdict, for those who cannot tell its colour."""
    return SHAPES[mark(finding)]


def prose(text: str) -> Markup:
    """Text with its ``code`` set as code, and arXiv numbers as links."""
    marked = re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"arXiv:? ?(\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', marked))


def embedded(content: bytes | str, kind: str) -> str:
    """Content as a data: address."""
    encoded = base64.b64encode(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
    return f"data:{kind};base64,{encoded.decode()}"


def described(evidence: Evidence, picture: Picture) -> str:
    """A figure's alternative text: what its experiment found; its caption where that is not decided."""
    if not evidence.claims:
        return f"Figure. {picture.caption}"
    finding = evidence.claims[0]
    found = f"{number(finding.interval.estimate)} {finding.unit}".strip()
    return f"Figure. What it shows: {finding.claim}: {found} ({between(finding)}), {finding.verdict}."


def permission(fragment: str) -> str:
    """The scripts of a fragment, by their digests, as a content-security policy lets them run and no others."""
    scripts = re.findall(r'<script type="module">(.*?)</script>', fragment, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


class Bar(NamedTuple):
    """Places in percent of a small picture's width: an interval, its estimate, the bound or a margin's ends, theory."""

    low: float
    estimate: float
    high: float
    bounds: tuple[float, ...]
    predicted: float | None


def bar(finding: Finding) -> Bar | None:
    """Where an interval lies beside its bound; ratios on a logarithmic scale. None where it has no finite ends."""
    limits, interval = sorted(set(finding.limits)), finding.interval
    theory = [finding.predicted] if np.isfinite(finding.predicted) else []
    values = np.array([interval.low, interval.estimate, interval.high, *theory, *limits])
    if finding.unit == "times" and (values > 0).all():
        values = np.log(values)
    if not np.isfinite(values).all():
        return None
    span = np.ptp(values)
    places = 8 + 84 * (values - values.min()) / span if span else np.full(len(values), 50.0)
    low, estimate, high, *others = (round(float(place), 1) for place in places)
    return Bar(low, estimate, high, tuple(others[len(theory) :]), others[0] if theory else None)
