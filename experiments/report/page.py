"""The report as one HTML page that needs nothing else."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from experiments.kit.backends import named
from experiments.kit.findings import SIMULTANEOUS, Finding, matched, tally
from experiments.kit.terminal import MEANINGS
from experiments.report import words
from experiments.report.answer import answer
from experiments.report.evidence import Evidence
from experiments.report.reported import REPORTED, compared


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
    def readable(self) -> bool:
        """Whether there are records to speak of, on either side."""
        return any(each.readable for each in self.sides)

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
    return [Row(*each) for each in matched(tree, transformer)]


def sections(evidence: Sequence[Evidence]) -> list[Section]:
    """One an experiment, by place in the argument."""
    there = {each.key: each for each in evidence}
    trees = sorted((each for each in evidence if each.backend == "tree"), key=lambda each: each.about.place)
    return [Section(each, there.get(named(each.name, "transformer"))) for each in trees]


def page(evidence: Sequence[Evidence], own: Sequence[Evidence] = (), explorer: str = "") -> str:
    """The report as HTML in UTF-8; styles, images and scripts are in it, and it may load nothing else.

    Args:
      evidence: of the experiments; one that states no place in the argument is a reader's own.
      own: what else a reader ran. Nothing of a reader's own counts among the findings.
      explorer: a fragment of HTML, as ``explorer.explorer`` makes it; no script runs but those in it.
    """
    counted = [each for each in evidence if each.about.counts]
    ordered = sections(counted)
    text = _template().render(
        answer=answer(counted),
        measured=[section for section in ordered if section.readable],
        missing=[section for section in ordered if not section.readable],
        compared=compared(counted),
        figured={row.name for row in REPORTED},
        own=[*sections([each for each in evidence if not each.about.counts]), *(Section(each, None) for each in own)],
        controls=[finding for each in counted for finding in each.controls],
        failing=[(each, finding) for each in counted for finding in each.controls if not finding.passes],
        explorer=explorer,
        scripts=words.permission(explorer),
        simultaneous=SIMULTANEOUS,
        meanings=MEANINGS,
    )
    return text.encode(errors="backslashreplace").decode()  # a path may hold bytes that are no text


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number, "prose": words.prose, "embedded": words.embedded, "mark": words.mark,
        "shape": words.shape, "bar": words.bar, "between": words.between, "level": words.level,
        "described": words.described, "tally": tally,
    }  # fmt: skip
    return environment.get_template("page.html.jinja")
