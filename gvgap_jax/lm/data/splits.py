"""Which prompts are trained on and which are held out, and how near the ones come to the others."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import Any, TypeVar

import numpy as np

from gvgap_jax.lm.data.prompts import canonical
from gvgap_jax.lm.data.rows import Comparison, Demonstration
from gvgap_jax.lm.data.tokenizer import Prompt

Kind = TypeVar("Kind", Comparison, Demonstration)
WORDS, ALIKE = 5, 0.8  # words in a row, and the share of such runs that near-duplicates have in common
BANDS, HASHES = 6, 3  # a pair of that share is missed in 1.3 % of the cases, one of half of it is looked at in 55 %
_WORD = re.compile(r"\w+")


def split(rows: Sequence[Kind], held_out_share: float) -> tuple[list[Kind], list[Kind]]:
    """Rows to train on and rows to hold out, by a hash of ``prompts.canonical``.

    A prompt is on one side only, the same one in every file, in whatever form or spacing it was written, and whatever
    other rows there are.

    Raises:
      ValueError: ``held_out_share`` is not at least 0 and below 1.
    """
    if not 0 <= held_out_share < 1:
        raise ValueError(f"held_out_share must be at least 0 and below 1, got {held_out_share}.")
    held = [_place(row.prompt) < held_out_share for row in rows]
    return (
        [row for row, out in zip(rows, held, strict=True) if not out],
        [row for row, out in zip(rows, held, strict=True) if out],
    )


def _place(prompt: Prompt) -> float:
    """Of a prompt in [0, 1)."""
    digest = hashlib.sha256(canonical(prompt).encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


def near_duplicates(trained: Sequence[Prompt], held_out: Sequence[Prompt]) -> int:
    """How many of the held-out prompts have a near-duplicate among those that are trained on.

    Near is: at least ``ALIKE`` of the runs of ``WORDS`` words that either has, without case and punctuation, are in
    both. Candidates are found by MinHash (Broder, 1997) in bands, so that nearly all of them are, in linear time.
    """
    numbers = defaultdict[str, int](count(1).__next__)
    known, asked = (_Runs([*dict.fromkeys(map(canonical, each))], numbers) for each in (trained, held_out))
    near = np.zeros(len(asked.starts), bool)
    for band in range(BANDS if len(known.starts) else 0):
        signs, others = asked.signs(band), known.signs(band)
        order = np.argsort(others, kind="stable")
        place = np.minimum(np.searchsorted(others[order], signs), len(order) - 1)
        for row in np.flatnonzero((others[order[place]] == signs) & ~near):
            one, other = asked.of(int(row)), known.of(int(order[place[row]]))
            both = len(np.intersect1d(one, other, assume_unique=True))
            near[row] = both >= ALIKE * (len(one) + len(other) - both)
    return int(near.sum())


class _Runs:
    """Hashes of the runs of words of texts, one text after the other; those of text n begin at ``starts[n]``."""

    def __init__(self, texts: Sequence[str], numbers: defaultdict[str, int]):
        """``numbers`` has or gets a number for every word."""
        words = [_numbered(text, numbers) for text in texts]
        ends = np.cumsum([len(row) for row in words], dtype=np.int64)
        flat = np.concatenate([*words, np.zeros(0, np.uint64)])
        runs = np.zeros(max(len(flat) - WORDS + 1, 0), np.uint64)
        for place in range(WORDS):
            runs = _mixed(runs ^ flat[place : place + len(runs)])
        whole = np.ones(len(runs), bool)
        for place in range(1, WORDS):
            whole[ends[:-1] - place] = False  # begins in one text and ends in the next
        self._runs = runs[whole]
        self.starts = np.concatenate([[0], ends[:-1]])[: len(ends)] - np.arange(len(ends)) * (WORDS - 1)

    def of(self, text: int) -> Any:
        """The different runs of a text."""
        return np.unique(np.split(self._runs, self.starts[text : text + 2])[1])

    def signs(self, band: int) -> Any:
        """One number for each text, often the same for texts that have most of their runs in common."""
        found = np.zeros(len(self.starts), np.uint64)
        for number in range(HASHES * band, HASHES * (band + 1)):
            factor = _mixed(np.array([number + 1], np.uint64)) | np.uint64(1)
            found = _mixed(found ^ np.minimum.reduceat(self._runs * factor, self.starts))
        return found


def _numbered(text: str, numbers: defaultdict[str, int]) -> Any:
    """The words of a text as numbers, at least as many as a run has."""
    words = [*map(numbers.__getitem__, _WORD.findall(text.casefold()))]
    return np.array(words + [0] * (WORDS - len(words)), np.uint64)


def _mixed(numbers: Any) -> Any:
    """Every bit of a number spread over all of its bits (Steele and others, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    return numbers ^ (numbers >> np.uint64(27))
