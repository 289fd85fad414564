"""What one should know of preference data before an hour is spent on them: form, rows, lengths, duplicates, ties."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gvgap_jax.lm.data import forms, read, sources
from gvgap_jax.lm.data.forms import COMPARISONS, DEMONSTRATIONS
from gvgap_jax.lm.data.prompts import canonical, readable
from gvgap_jax.lm.data.read import Corpus
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.values import present
from gvgap_jax.runtime.files import Folder

QUANTILES = (0.0, 0.5, 0.95, 1.0)
_WORD = re.compile(r"\w+")


class Lengths(NamedTuple):
    """The ``QUANTILES`` of the lengths of one kind of text: in characters, and in words."""

    characters: list[int]
    words: list[int]


class Repeats(NamedTuple):
    """Rows that say again what an earlier one said, or its contrary.

    Attributes:
      rows: with the same prompt and the same responses as an earlier one.
      prompts: rows whose prompt an earlier one has.
      contradictions: pairs of responses to one prompt of which some rows choose the one and some the other.
    """

    rows: int
    prompts: int
    contradictions: int


class Summary(NamedTuple):
    """What a source holds; shares are of its comparisons, None for demonstrations.

    Attributes:
      kind: "comparisons" or "demonstrations".
      report: its form, and the rows that are taken and dropped, in one sentence.
      rows: comparisons or demonstrations.
      lengths: of "prompt", and of "chosen" and "rejected" or "response".
      repeats: duplicates and contradictions.
      ties: pairs of answers that are rated alike, as a share of these and of the comparisons.
      longer: where chosen has more words than rejected.
      length_alone: where one response is the beginning of the other, or both have the same words.
      example: the first row, with ⟂ between prompt and response.
    """

    kind: str
    report: str
    rows: int
    lengths: dict[str, Lengths]
    repeats: Repeats
    ties: float | None
    longer: float | None
    length_alone: float | None
    example: str


def summarised(source: str | Folder, form: str | None = None, part: str = "train") -> Summary:
    """The summary of a source that ``read`` reads, whichever kind of rows it has.

    Raises:
      ValueError: as ``read.read_comparisons``.
    """
    return summary(read_either(source, form, part))


def read_either(source: str | Folder, form: str | None = None, part: str = "train") -> Corpus[Any]:
    """The comparisons or the demonstrations of a source, whichever it has; raises as ``read.read_comparisons``."""
    reads = read.read_comparisons if _compares(source, form, part) else read.read_demonstrations
    return reads(source, form, part=part)


def summary(corpus: Corpus[Any]) -> Summary:
    """The summary of rows that were read, of which there is one at least."""
    rows, first = corpus.rows, corpus.rows[0]
    compares = isinstance(first, Comparison)
    names = ("chosen", "rejected") if compares else ("response",)
    texts = {"prompt": [readable(row.prompt) for row in rows]}
    texts |= {name: [getattr(row, name) for row in rows] for name in names}
    pairs = [(row.chosen, row.rejected) for row in rows] if compares else []
    return Summary(
        kind="comparisons" if compares else "demonstrations",
        report=corpus.report(),
        rows=len(rows),
        lengths={name: _lengths(found) for name, found in texts.items()},
        repeats=repeats(rows),
        ties=corpus.ties / (corpus.ties + len(rows)) if compares else None,
        longer=_share(len(one.split()) > len(other.split()) for one, other in pairs),
        length_alone=_share(_by_length_alone(*pair) for pair in pairs),
        example=f"{texts['prompt'][0]}⟂{texts[names[0]][0]}",
    )


def repeats(rows: Sequence[Comparison] | Sequence[Demonstration]) -> Repeats:
    """Duplicates and contradictions among rows."""
    prompts = [canonical(row.prompt) for row in rows]
    said = [_said(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
    there = set(said)
    contrary = {(prompt, *sorted(pair)) for prompt, *pair in there if len(pair) == 2 and (prompt, *pair[::-1]) in there}
    return Repeats(len(said) - len(there), len(prompts) - len(set(prompts)), len(contrary))


def _said(prompt: str, row: Comparison | Demonstration) -> tuple[str, ...]:
    texts = (row.chosen, row.rejected) if isinstance(row, Comparison) else (row.response,)
    return prompt, *(" ".join(text.split()) for text in texts)


def _lengths(texts: Sequence[str]) -> Lengths:
    counts = ([len(text) for text in texts], [len(text.split()) for text in texts])
    return Lengths(*([int(each) for each in np.quantile(found, QUANTILES, method="higher")] for found in counts))


def _by_length_alone(one: str, other: str) -> bool:
    """One says the other's words and then more, or both say the same ones, whatever their order, case and signs."""
    words, others = _WORD.findall(one.casefold()), _WORD.findall(other.casefold())
    short = min(len(words), len(others))
    return words[:short] == others[:short] or Counter(words) == Counter(others)


def _share(found: Any) -> float | None:
    values = list(found)
    return sum(values) / len(values) if values else None


def _compares(source: str | Folder, form: str | None, part: str) -> bool:
    """Whether it is comparisons: by the form, or by the first row that is of any; comparisons if none is."""
    if form is not None:
        forms.check_names([form])
        return forms.FORMS[form] in COMPARISONS
    for _, row in sources.rows(source, part):
        for table in (COMPARISONS, DEMONSTRATIONS):
            try:
                forms.form_of(present(row), table)
            except ValueError:
                continue
            return table is COMPARISONS
    return True
