"""The table of ``bench gpu`` and ``bench tpu``, from stored rows alone: on screen, and in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import median

from rich.markup import escape
from rich.table import Table

from experiments.benchmarks.accelerators.rows import ALONE, AT_ONCE, FITS, TORCH_FIT, Row
from experiments.benchmarks.accelerators.stored import Measured, Stored
from experiments.benchmarks.tables import table
from experiments.kit.terminal import markdown

HEADINGS = ("row", "measured", "lowest to highest", "of matrix units", "of memory", "limit", "compile s", "how")
WORDS = ("row", "limit", "how")
LEGEND = (
    "Measured is the median of repetitions, without compiling. Shares are of the published peaks, or, of a device that "
    "is not known here, of a large matrix product and a large copy (measured); training counts the model's FLOPs alone "
    "(MFU), fits what each of them computes, and an estimate of what it moves, of which caches may save some. The "
    "limit is the highest floor and how near the row comes to it; dispatch is the time of a call with a row a device."
)
MISSING = "not measured"

Device = tuple[str, int]


def by_device(rows: Iterable[Stored]) -> dict[Device, dict[str, Stored]]:
    """Of every device the newest measurement of each row, or the newest note where there is none."""
    found: dict[Device, dict[str, Stored]] = {}
    for each in rows:
        of_device = found.setdefault((each.key.device, each.key.devices), {})
        there = of_device.get(each.key.row)
        if each.measured or there is None or not there.measured:
            of_device[each.key.row] = each
    return found


def on_screen(rows: Sequence[Row], device: Device, found: dict[str, Stored]) -> Table:
    """One device's table."""
    made = table(title(device, found), *HEADINGS, words=WORDS)
    for cells in _lines(rows, found):
        made.add_row(*map(escape, cells))
    return made


def in_markdown(rows: Sequence[Row], stored: Iterable[Stored], command: str) -> str:
    """A table for every device, or one that says that nothing is measured, and by which command it would be."""
    devices = by_device(stored)
    if not devices:
        lines = [(row.name, MISSING) for row in rows]
        return f"Nothing is measured yet: `{command}` does it.\n\n{markdown(HEADINGS[:2], lines)}"
    parts = []
    for device, found in devices.items():
        parts += [f"{title(device, found)}:", markdown(HEADINGS, _lines(rows, found)), *comparisons(found)]
    return "\n\n".join([*parts, LEGEND])


def title(device: Device, found: dict[str, Stored]) -> str:
    """The device, and what made its rows."""
    newest = max(found.values(), key=lambda each: str(each.made_by["created"]))
    revisions = dict.fromkeys(str(each.made_by["revision"])[:9] for each in found.values())
    versions = newest.key.versions
    words = [
        f"{device[0]} x {device[1]}",
        f"jax {versions['jax']}",
        versions["platform"],
        newest.made_by.get("clocks", ""),
        f"revision {', '.join(revisions)}",
        str(newest.made_by["created"])[:10],
    ]
    return "; ".join(filter(None, words))


def comparisons(found: dict[str, Stored]) -> list[str]:
    """What two rows say together, a sentence each where both are there."""
    measured = {name: each.measured for name, each in found.items() if each.measured}
    sentences = []
    if FITS in measured and TORCH_FIT in measured:
        fits = measured[FITS].a_second / measured[TORCH_FIT].a_second
        sentences.append(f"In the time of one fit by PyTorch {_number(fits)} are done here: {fits / 1000:.2g} x 1,000.")
    if AT_ONCE in measured and ALONE in measured:
        once, alone = measured[AT_ONCE], measured[ALONE]
        ratio, whole = once.a_second / alone.a_second, _with_compiling(alone) / _with_compiling(once)
        sentences.append(
            f"{once.amount} seeds at once are {_number(ratio)} times as fast as one after another, and with compiling, "
            f"which every run after another does anew, {_number(whole)} times."
        )
    return sentences


def rate(measured: Measured) -> str:
    """Units a second."""
    return f"{_number(measured.a_second)} {measured.unit}/s"


def _lines(rows: Sequence[Row], found: dict[str, Stored]) -> list[tuple[str, ...]]:
    return [(row.name, *_cells(found.get(row.name))) for row in rows]


def _cells(stored: Stored | None) -> tuple[str, ...]:
    if stored is None or stored.measured is None:
        return MISSING, "", "", "", "", "", stored.failed if stored else ""
    measured = stored.measured
    low, high = (measured.amount / seconds for seconds in (max(measured.seconds), min(measured.seconds)))
    limit = measured.limit
    return (
        rate(measured),
        f"{_number(low)} to {_number(high)}",
        _share(measured, "matrix units"),
        _share(measured, "memory"),
        f"{limit}, {measured.share(limit):.0%}" if limit else "",
        f"{measured.compile_seconds:.1f}" if measured.compile_seconds else "",
        measured.how + (f"; {measured.peaks} peaks" if measured.peaks else ""),
    )


def _share(measured: Measured, floor: str) -> str:
    return f"{measured.share(floor):.1%}" if floor in measured.floors else ""


def _with_compiling(measured: Measured) -> float:
    return median(measured.seconds) + measured.compile_seconds


def _number(value: float) -> str:
    """With three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
