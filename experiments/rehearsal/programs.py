"""One program of a run, as a rehearsal sees it: how it is lowered, how often it is called, and what it may not do."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.sharding import Mesh


class Program(NamedTuple):
    """A program that a run would compile for the devices of a target.

    Attributes:
      name: for people, and no other program of the run has it.
      lower: traces it for abstract arrays on those devices; nothing large is made.
      calls: in the whole run.
      rows: of one call, over all devices: cells of a sweep, or rows of a batch.
      lowest: the lowest precision that its room allows for a matrix product: ``float32`` or ``bfloat16``.
      options: of the command line that change what memory it needs.
      mesh: of its collectives' axes; None where no array is split.
      operations: runs some of its rows here and counts the floating-point operations of a row: the mean, and the most
        of any; None where the lengths of all loops are known.
      fewer: the bytes that it needs on a device, None where the compiler gave up and did not say -> the program that a
        run compiles instead, of fewer rows; None where the run takes this one.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    calls: float
    rows: int
    lowest: str
    options: str = ""
    mesh: Mesh | None = None
    operations: Callable[[], tuple[float, float]] | None = None
    fewer: "Callable[[float | None], Program | None]" = lambda needed: None
