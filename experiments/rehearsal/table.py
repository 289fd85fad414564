"""A rehearsal as a table, and the hours and the cost of the run as a range."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.markup import escape

from experiments.kit.terminal import console, table
from experiments.rehearsal.rows import Difference, Row
from gvgap_jax.runtime.compiled import bound, is_lower
from gvgap_jax.runtime.targets import Target
from gvgap_jax.runtime.units import HOUR, readable

HEADINGS = (
    "program",
    "rows",
    "calls",
    "compiled in",
    "memory",
    "GFLOP",
    "GB moved",
    "bound a call",
    "a row",
    "lowest",
    "links",
)
REACHED = (0.6, 0.15)  # shares of a bound: 0.58 is the best of published trainings (PaLM, arXiv 2204.02311)
ESTIMATED = ("program", "its worst moment", "estimated", "compiled", "estimated / compiled")
START = 5e-6  # seconds, of an instruction: the launch of a GPU's kernel takes 2 to 10 µs without a graph


class Rehearsed(NamedTuple):
    """What came of one rehearsal.

    Attributes:
      title: of its table.
      target: the devices.
      rows: of the programs that are compiled.
      left: programs that are not.
      share: of the run's cells, or rows of batches, that are of the programs in ``rows``.
      differences: of what ``--dry_run`` estimates from what is compiled; it estimates nothing of sweeps.
      wrong: what keeps the run from running as it should, a sentence each.
    """

    title: str
    target: Target
    rows: list[Row]
    left: int
    share: float
    differences: list[Difference]
    wrong: list[str]


class Hours(NamedTuple):
    """How long a run takes on a target, as a range: it cannot be known better before it is run.

    Attributes:
      low: every program at 60 % of its bound, its loops of mean length.
      high: at 15 % of it, every row's loops as long as the longest, each instruction started on its own, and compiling
        on top.
    """

    low: float
    high: float


def too_low(row: Row) -> bool:
    """Whether a matrix product is computed in a lower precision than its room allows."""
    return row.facts is not None and is_lower(row.facts.precision, row.program.lowest)


def hours(rows: Sequence[Row], target: Target) -> Hours:
    """The range of the programs that compiled."""
    low = high = 0.0
    for row in rows:
        if row.facts is None:
            continue
        _, seconds = bound(row.facts, target.chip)
        mean, most = row.turns(len(target.devices))
        low += row.program.calls * mean * seconds / REACHED[0]
        slowest = seconds / REACHED[1] + START * row.facts.started
        high += row.program.calls * most * slowest + row.facts.compile_seconds
    return Hours(low / HOUR, high / HOUR)


def show(done: Rehearsed, price: float | None) -> None:
    """Print the table, the hours and the cost as a range, and the estimates beside what was compiled."""
    made = table(done.title, *HEADINGS)
    made.columns[-1].justify = "left"
    for row in done.rows:
        made.add_row(*map(escape, cells(row, done.target)))
    console.print(made)
    console.print(summary(done, price), highlight=False, soft_wrap=True)
    if done.differences:
        made = table("memory a device, by the arithmetic of --dry_run and by the compiler", *ESTIMATED)
        for each in done.differences:
            made.add_row(*map(escape, estimated(each)))
        console.print(made)


def wrong(rows: Sequence[Row], target: Target) -> list[tuple[Row, str]]:
    """Rows that keep the run from running as it should, and what is wrong with each, in words."""
    found = []
    for row in rows:
        if row.facts is None:
            found.append((row, f"{row.program.name} {row.wrong}"))
        elif not row.fits(target):
            needed, there = readable(row.facts.memory), readable(target.memory_bytes)
            options = f" ({row.program.options})" if row.program.options else ""
            found.append(
                (
                    row,
                    f"{row.program.name} needs {needed} on each device, and a program can count on {there} of a "
                    f"{target.chip.name}{options}",
                )
            )
        elif too_low(row):
            precisions = f"{row.facts.precision}, and its room allows {row.program.lowest}"
            found.append((row, f"{row.program.name} has a matrix product in {precisions}"))
    return found


def estimated(difference: Difference) -> list[str]:
    """An estimate beside what was compiled, as words."""
    sizes = readable(difference.estimate), readable(difference.compiled)
    return [difference.name, difference.worst, *sizes, f"{difference.ratio:.2f}"]


def summary(done: Rehearsed, price: float | None) -> str:
    """Memory, time of compiling, hours and cost in a few sentences."""
    target, there = done.target, [row.facts for row in done.rows if row.facts]
    if not there:
        return "No program compiled."
    low, high = hours(done.rows, target)
    run = f"This part, {done.share:.2g} of the run's rows," if done.left else "The run"
    most = max(each.memory for each in there)
    compiling = sum(each.compile_seconds for each in there)
    cost = "" if price is None else f", {low * price:,.2g} to {high * price:,.2g} at {price:g} an hour"
    return (
        f"{len(there)} programs compiled in {time_of(compiling)}; the largest needs {readable(most)} of "
        f"{readable(target.memory_bytes)} on each of {len(target.devices)} devices.\n"
        f"{run} takes {time_of(HOUR * low)} to {time_of(HOUR * high)}{cost}: programs at {REACHED[0]:.0%} to "
        f"{REACHED[1]:.0%} of their bounds, and compiling. Reading, storing and judges come on top."
    )


def turns(row: Row, target: Target) -> float:
    """What the loops of a call multiply its facts by: a batch of an accelerator waits for its slowest row."""
    mean, most = row.turns(len(target.devices))
    return mean if target.platform == "cpu" else most


def cells(row: Row, target: Target) -> list[str]:
    """A row of the table, as words."""
    program, found = row.program, row.facts
    if found is None:
        return [program.name, f"{program.rows:,}", f"{program.calls:,.0f}", row.wrong, *[""] * 7]
    limit, seconds = bound(found, target.chip)
    times = turns(row, target)
    return [
        program.name,
        f"{program.rows:,}",
        f"{program.calls:,.0f}",
        f"{found.compile_seconds:.0f} s",
        readable(found.memory),
        f"{times * found.flops / 1e9:,.3g}",
        f"{times * found.moved / 1e9:,.3g}",
        f"{limit} {time_of(times * seconds)}",
        of_a_row(row, target),
        found.precision,
        _links(row),
    ]


def of_a_row(row: Row, target: Target) -> str:
    """Operations and bytes of one row of a program that compiled."""
    assert row.facts is not None
    share = turns(row, target) * len(target.devices) / row.program.rows
    flops, moved = share * row.facts.flops, share * row.facts.moved
    return f"{flops / 1e6:,.3g} MFLOP {moved / 1e6:,.3g} MB"


def _links(row: Row) -> str:
    """Collectives by kind and axis, with what a device sends a call; less than a hundredth of it is left out."""
    sent: dict[str, float] = {}
    for each in row.facts.collectives if row.facts else ():
        name = f"{each.kind} {each.axis}"
        sent[name] = sent.get(name, 0.0) + each.bytes
    least = sum(sent.values()) / 100
    shown = sorted((each for each in sent.items() if each[1] >= least), key=lambda each: -each[1])
    return "\n".join(f"{name} {readable(size)}" for name, size in shown) or "none"


def time_of(seconds: float) -> str:
    """A time for people, in the unit that suits it."""
    units = (("h", HOUR), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, size = next((each for each in units if seconds >= each[1]), units[-1])
    return f"{float(f'{seconds / size:.2g}'):,g} {unit}"
