"""Preference data in files, folders and on the Hugging Face hub, read as text in whatever form, and written again.

Rows keep their order. In which order a run sees them is ``objectives.shuffled`` of its key and the step: nothing is
shuffled here, and a resumed run needs no position. What is malformed is counted and named, see ``rows``; which forms
there are, see ``forms``.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from gvgap_jax.lm.data import forms, sources
from gvgap_jax.lm.data.forms import COMPARISONS, DEMONSTRATIONS, FORMS, Form
from gvgap_jax.lm.data.parsers import Rated, Useless
from gvgap_jax.lm.data.rows import POST, Comparison, Demonstration, Dropped, reasons
from gvgap_jax.lm.data.values import present
from gvgap_jax.runtime.files import Folder, explained, folder_at, write

Kind = TypeVar("Kind", Comparison, Demonstration)


class Corpus(NamedTuple, Generic[Kind]):
    """What a source says.

    Attributes:
      rows: its comparisons or demonstrations.
      dropped: its rows that are not used, and why.
      ties: pairs of answers that are rated alike.
      forms: how many of its rows are of which form.
      taken: how many of its rows are used; there may be several comparisons in one, or several rows behind one.
    """

    rows: list[Kind]
    dropped: list[Dropped]
    ties: int
    forms: dict[str, int]
    taken: int

    def report(self) -> str:
        """One sentence: the form, and how many rows are taken, or dropped for which reasons."""
        names = " and ".join(name + (f" ({FORMS[name].note})" if FORMS[name].note else "") for name in self.forms)
        total = self.taken + len(self.dropped)
        pairs = f" in {len(self.rows):,} comparisons" if self.taken != len(self.rows) else ""
        ties = f"; ties: {self.ties:,}" if self.ties else ""
        dropped = f"; {len(self.dropped):,} are not: {reasons(self.dropped)}" if self.dropped else ""
        form = f"form {names}: " if names else ""
        return f"{form}{self.taken:,} of {total:,} rows are used{pairs}{ties}{dropped}."


def read_comparisons(
    source: str | Folder,
    form: str | None = None,
    *,
    part: str = "train",
    name: str | None = None,
    revision: str | None = None,
    most_malformed: float = 0.5,
) -> Corpus[Comparison]:
    """The comparisons of a file, of a folder of files, or of a folder or repository of ``datasets``.

    Args:
      source: a file's path or address (``sources.FILES``), or a folder of such files; else what
        ``datasets.load_dataset`` takes, or a folder that it has saved.
      form: of all rows, a name of ``forms.COMPARISONS``; None to see it from each row's keys.
      part: such as "validation", of a data set of ``datasets``, of a folder whose files are named so, or of a JSON
        object that holds several.
      name: of one data set among several of a repository.
      revision: of the repository, to read the same rows next year.
      most_malformed: share of the rows that may be malformed.

    Raises:
      ValueError: it cannot be read, has no rows that can be used, or too many are malformed.
    """
    return _read(source, COMPARISONS, form, sources.rows(source, part, name, revision), most_malformed)


def read_demonstrations(
    source: str | Folder,
    form: str | None = None,
    *,
    part: str = "train",
    name: str | None = None,
    revision: str | None = None,
    most_malformed: float = 0.5,
) -> Corpus[Demonstration]:
    """Demonstrations, with the arguments and errors of ``read_comparisons``; forms are ``forms.DEMONSTRATIONS``."""
    return _read(source, DEMONSTRATIONS, form, sources.rows(source, part, name, revision), most_malformed)


def write_comparisons(path: str | Folder, rows: Iterable[Comparison]) -> None:
    """JSONL (.gz by its name) that ``read_comparisons`` reads again, whole or not at all.

    Posts are written in the form ``choice``, the chosen summary first; texts and messages in the form ``pair``.

    Raises:
      OSError: it cannot be written.
    """
    lines = "".join(json.dumps(_written(row), ensure_ascii=False) + "\n" for row in rows).encode()
    file = folder_at(path)
    with explained(file):
        write(file, gzip.compress(lines, mtime=0) if file.name.endswith(".gz") else lines)


def _written(row: Comparison) -> dict[str, Any]:
    reference = {} if row.reference is None else {"reference": row.reference}
    if isinstance(row.prompt, dict) and set(row.prompt) == set(POST):
        info = {name: row.prompt[name] for name in POST}
        return {"info": info, "summaries": [{"text": row.chosen}, {"text": row.rejected}], "choice": 0} | reference
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected} | reference


def _read(source: Any, table: Sequence[Form], name: str | None, rows: sources.Rows, most_malformed: float) -> Corpus:
    corpus = _corpus(rows, table, _named(name, table))
    total, bad = corpus.taken + len(corpus.dropped), sum(each.malformed for each in corpus.dropped)
    if not total:
        raise ValueError(f"{source} has no rows.")
    if not corpus.rows or bad > most_malformed * total:
        raise ValueError(f"{source}: {corpus.report()} Name the form, or mend the file.")
    return corpus


def _named(name: str | None, table: Sequence[Form]) -> Form | None:
    if name is None:
        return None
    forms.check_names([name])
    if FORMS[name] not in table:
        kinds = ("comparisons", "demonstrations") if table is COMPARISONS else ("demonstrations", "comparisons")
        raise ValueError(
            f"the form {name} is one of {kinds[1]}; those of {kinds[0]} are {', '.join(form.name for form in table)}."
        )
    return FORMS[name]


def _corpus(rows: sources.Rows, table: Sequence[Form], form: Form | None) -> Corpus:
    corpus, counts = Corpus([], [], 0, {}, 0), Counter[str]()
    waiting: dict[str, list[tuple[str, Rated]]] = {}  # answers in rows of their own, by their prompts
    for where, row in rows:
        try:
            if isinstance(row, sources.Unread):
                raise ValueError(row.reason)
            full = present(row)
            empty = row.keys() - full.keys()
            seen = form or forms.form_of(full, table, empty)
            counts[seen.name] += 1
            said = forms.said_by(full, seen, empty)
            if seen.grouped:
                waiting.setdefault(json.dumps(said.prompt), []).append((where, said))
            else:
                corpus = _with(corpus, [where], said)
        except ValueError as error:
            corpus.dropped.append(Dropped(where, str(error), not isinstance(error, Useless)))
        except RecursionError:
            corpus.dropped.append(Dropped(where, "is nested too deeply"))
    for group in waiting.values():
        places, first = [where for where, _ in group], group[0][1]
        answers = [answer for _, said in group for answer in said.answers]
        try:
            if len(group) == 1:
                raise Useless("is the only answer to its prompt")
            corpus = _with(corpus, places, first._replace(answers=answers))
        except ValueError as error:
            corpus.dropped.extend(Dropped(where, str(error), not isinstance(error, Useless)) for where in places)
    return corpus._replace(forms=dict(counts))


def _with(corpus: Corpus, places: list[str], said: Rated | Demonstration) -> Corpus:
    """What the rows at these places say, added; raises as ``forms.comparisons``."""
    if isinstance(said, Demonstration):
        corpus.rows.append(said._replace(where=places[0]))
        return corpus._replace(taken=corpus.taken + 1)
    found, ties = forms.comparisons(said, places[0])
    corpus.rows.extend(found)
    if not found:
        corpus.dropped.extend(Dropped(where, "is a tie: its answers are rated alike", False) for where in places)
    return corpus._replace(ties=corpus.ties + ties, taken=corpus.taken + len(places) * bool(found))
