"""What a report says of an experiment, gathered from its folder of records; nothing is computed anew."""

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from experiments.kit import points
from experiments.kit.backends import BackendName, named
from experiments.kit.findings import DECIDED_NONE, Finding, Question, doubtful
from experiments.kit.presets import PRESET_NAMES, RESULTS, default_folder
from experiments.kit.shipped import shipped
from gvgap_jax.runtime.files import Folder
from gvgap_jax.runtime.provenance import environment
from gvgap_jax.sweep import folder_at, plan_in
from gvgap_jax.sweep.identity import changes, differences, grids_of
from gvgap_jax.sweep.look import MANIFEST, failures, look, manifest
from gvgap_jax.sweep.records import provenances

LONGEST = 300  # characters of an error's message


class Picture(NamedTuple):
    """A figure as PNG, with the words that belong to it."""

    title: str
    caption: str
    png: bytes


class Listing(NamedTuple):
    """A table that belongs to figures, as CSV."""

    title: str
    rows: int
    csv: str


class Evidence(NamedTuple):
    """Everything that a report says of one experiment on one backend.

    Attributes:
      question, setting: first line and first paragraph of the module's docstring.
      about: its claim, and what the claim's authors reported.
      captions: of its figures, by title.
      preset, folder, command: which records these are, where they lie, and what makes or completes them.
      problems: why findings or figures are missing, one sentence each.
      notes: what a reader should know about the records that are there.
      origin: what made the records: a name and a text each.
      records: the tables themselves, for what is drawn of several experiments.
    """

    name: str
    backend: BackendName
    question: str
    setting: str
    about: Question
    captions: dict[str, str]
    preset: str
    folder: str
    command: str
    problems: list[str]
    notes: list[str]
    findings: list[Finding]
    pictures: list[Picture]
    listings: list[Listing]
    origin: dict[str, str]
    records: points.Records = {}  # noqa: RUF012  a NamedTuple's default, which nobody changes

    @property
    def key(self) -> str:
        """Name of the experiment on its backend, which no other evidence has."""
        return named(self.name, self.backend)

    @property
    def readable(self) -> bool:
        """Whether the records are there, complete and not stale."""
        return bool(self.origin)

    @property
    def claims(self) -> list[Finding]:
        """The findings that answer the question; the first one is the headline."""
        return [finding for finding in self.findings if not finding.control]

    def claim_with(self, *parts: str) -> Finding | None:
        """The first claim that has all of these in its words; the headline for none, and None where there is none."""
        return next((each for each in self.claims if all(part in each.claim for part in parts)), None)

    @property
    def controls(self) -> list[Finding]:
        """The findings that test the experiment itself: their answers are known."""
        return [finding for finding in self.findings if finding.control]


def gather(
    name: str, module, root: str = RESULTS, preset: str | None = None, backend: BackendName = "tree"
) -> Evidence:
    """The evidence of one experiment under the folder ``root``: that of ``preset``; ``module`` is it on that backend.

    As ``chosen`` chooses it.
    """
    chosen_preset, folder, problems, notes = chosen(name, module, root, preset, backend)
    question, setting = words_of(module)
    option = "" if backend == "tree" else f" --backend {backend}"
    command = f"python -m experiments run {name}{option} --preset {chosen_preset}"
    command += f" --out {default_folder(name, chosen_preset, root, backend)}" if root != RESULTS else ""
    words = question, setting, module.QUESTION, module.CAPTIONS
    evidence = Evidence(name, backend, *words, chosen_preset, folder, command, problems, notes, [], [], [], {})
    return evidence if problems else with_records(evidence, module)


class Chosen(NamedTuple):
    """Which records stand for an experiment; ``problems`` and ``notes`` as those of its ``Evidence``."""

    preset: str
    folder: str
    problems: list[str]
    notes: list[str]


def chosen(name: str, module, root: str = RESULTS, preset: str | None = None, backend: BackendName = "tree") -> Chosen:
    """The records of the most thorough preset that are complete and not stale; of one preset where it is given.

    Those under ``root`` come before those that are shipped with the project.
    """
    found = []  # from the least to the most wanted
    for each in [each for each in PRESET_NAMES if preset in (None, each) and each in module.PRESETS]:
        local = folder_at(default_folder(name, each, root, backend))
        for folder in (shipped(name, each, backend), local):
            if folder is not None and _exists(folder):
                plan = named(name, backend), module, module.PRESETS[each]
                found.append((each, str(folder), trouble(folder, plan)))
    if not found:
        wanted = preset or "quick"
        folder = default_folder(name, wanted, root, backend)
        return Chosen(wanted, folder, trouble(folder_at(folder), ()), [])
    number = next((number for number in reversed(range(len(found))) if not found[number][2]), len(found) - 1)
    wanted, folder, problems = found[number]
    notes = [
        f"Records of the preset {each} are there too, but: {' '.join(why)}" for each, _, why in found[number + 1 :]
    ]
    return Chosen(wanted, folder, problems, notes)


def words_of(module) -> tuple[str, str]:
    """The question and the setting that a module's docstring begins with."""
    question, *rest = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    return " ".join(question.split()), " ".join(" ".join(rest).split())


def trouble(folder: Folder, plan: tuple) -> list[str]:
    """Why the records in a folder cannot be shown, one sentence each; none where they can.

    Records are stale where the plan in their manifest is not the one that the present code makes: ``plan`` has its
    name, experiment and grid.
    """
    if not _exists(folder):
        return [f"There are no records in {folder}."]
    try:
        stored, wanted = manifest(folder), plan_in(folder, *plan)
        changed = differences(stored, wanted)
        if changed:
            return [f"The records in {folder} are stale ({changed}). Move that folder away before making them anew."]
        before = grids_of(stored)
        if len(before) <= len(wanted.earlier):
            new = "; ".join(changes(before[-1], wanted.grid))
            return [f"The records in {folder} are of a smaller grid ({new}): the command goes on from them."]
        seen = look(folder)
        failed = [f"Chunk {chunk} failed: {_line(reason)}" for chunk, reason in sorted(failures(folder).items())]
    except Exception as error:
        return [f"The records in {folder} cannot be read: {_words(error)}"]
    wrong = [seen.complaint()] if seen.wrong else []
    left = f"{len(seen.missing()):,} of {len(seen.plan):,} chunks are missing in {folder}."
    return [left, *wrong, *failed] if seen.missing() else []


def _exists(folder: Folder) -> bool:
    return (folder / MANIFEST).exists()


def _line(text: str) -> str:
    """The first line, or its beginning."""
    return (text.splitlines() or [""])[0][:LONGEST]


def _words(error: Exception) -> str:
    return _line(f"{type(error).__name__}: {error}")


def with_records(evidence: Evidence, module) -> Evidence:
    """The evidence with what the records give; what raises an error becomes a problem."""
    folder, problems, notes = folder_at(evidence.folder), evidence.problems, evidence.notes
    findings: list[Finding] = []
    origin: dict[str, str] = {}
    records: points.Records = {}
    drawn: tuple[list[Picture], list[Listing]] = ([], [])
    with _noted(problems, notes, "The records cannot be read"):
        records = points.records_of(folder)
        origin = _origin(folder, records)
        notes += doubtful(records)
        with _noted(problems, notes, "The findings cannot be computed"):
            findings = points.findings(module, records)
            if not findings:
                notes.append(DECIDED_NONE)
        with _noted(problems, notes, "The figures cannot be drawn"):
            drawn = _draw(module, records, evidence.question)
    made = {"findings": findings, "pictures": drawn[0], "listings": drawn[1], "origin": origin, "records": records}
    return evidence._replace(**made)


@contextlib.contextmanager
def _noted(problems: list[str], notes: list[str], what: str) -> Iterator[None]:
    """Turn an error into a problem, and warnings into notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except Exception as error:
            problems.append(f"{what}: {_words(error)}")
    notes += [text for text in dict.fromkeys(str(warning.message) for warning in caught) if text not in notes]


def _draw(module, records: points.Records, question: str) -> tuple[list[Picture], list[Listing]]:
    captions, pictures, listings = module.CAPTIONS, [], []
    try:
        for title, drawn in points.figures(module, records):
            if isinstance(drawn, pl.DataFrame):
                listings.append(Listing(title, len(drawn), drawn.write_csv()))
                continue
            known = max((key for key in captions if title.startswith(key)), key=len, default="")
            pictures.append(Picture(title, captions.get(known, question), png_of(drawn)))
            plt.close(drawn)
    finally:
        plt.close("all")
    place = {title: number for number, title in enumerate(captions)}
    return sorted(pictures, key=lambda picture: place.get(picture.title, len(place))), listings


def png_of(drawn: Figure) -> bytes:
    """A figure as PNG."""
    png = io.BytesIO()
    drawn.savefig(png, format="png", dpi=200)
    return png.getvalue()


def _origin(folder: Folder, records: dict[str, pl.DataFrame]) -> dict[str, str]:
    plan, grid = manifest(folder)["chunks"], manifest(folder)["grid"]
    makers = [made_by for name, made_by in provenances(folder).items() if name in plan]
    days = sorted({maker["created"][:10] for maker in makers})
    rows = ", ".join(f"{len(frame):,} of {table}" for table, frame in records.items())
    axes = (f"{name} {', '.join(map(str, values))}" for name, values in grid["axes"].items())
    return {
        "grid": f"{'; '.join(axes)}; {grid['seeds']} seeds from {grid['first_seed']:,}",
        "made": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "records": f"{rows}; {sum(maker['seconds'] for maker in makers):.0f} s of runs",
        "device": _distinct(f"{maker['devices']} × {maker['device']}" for maker in makers),
        "versions": _distinct(
            ", ".join(f"{name} {version}" for name, version in {"Python": maker["python"], **maker["versions"]}.items())
            for maker in makers
        ),
        "revision": _revision({maker["revision"] for maker in makers}),
    }


def _distinct(texts: Iterator[str]) -> str:
    return " and ".join(sorted(set(texts)))


def _revision(revisions: set[str]) -> str:
    now = environment()["revision"]
    made = " and ".join(sorted(revisions))
    return made if revisions == {now} else f"{made}; this report was made at {now}"
