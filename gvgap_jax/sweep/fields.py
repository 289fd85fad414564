"""Fields of an experiment's ``Config`` beside its records: what asked for a cell, whatever its records hold of it.

Records hold what their program was given. What only chose the program, or other cells, is joined from the plan, a row a
cell, which lies in a file of its own beside the manifest.
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl

from gvgap_jax.runtime.files import Damaged, Folder, explained, read_bytes, set_aside, write, wrong_by
from gvgap_jax.sweep.plan import Plan, fields_of

FIELDS = "fields.arrow"


def save_fields(folder: Folder, plan: Plan) -> list[str]:
    """Store which point of the grid asks for which cell, where it does not stand there already.

    Returns:
      what was wrong with the file that was there, in one sentence; it is set aside.
    """
    path, wanted, notes = folder / FIELDS, fields_of(plan), []
    try:
        if read_fields(folder).equals(wanted):
            return []
    except FileNotFoundError:
        pass
    except (Damaged, OSError) as error:
        aside = set_aside(path)
        notes = [f"{path.name} {wrong_by(error)}: set aside as {aside}, and written anew."]
    buffer = io.BytesIO()
    wanted.write_ipc(buffer, compression="zstd")
    with explained(folder):
        write(path, buffer.getvalue())
    return notes


def read_fields(folder: Folder) -> pl.DataFrame:
    """The fields of a folder's plan, as ``save_fields`` wrote them.

    Raises:
      OSError: they cannot be read.
      Damaged: they are not what was written.
    """
    content = read_bytes(folder / FIELDS)
    try:
        return pl.read_ipc(io.BytesIO(content))
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise Damaged(folder / FIELDS, "is no table of fields") from error


def joined(folder: Folder, manifest: dict, names: Sequence[str], records: pl.DataFrame) -> pl.DataFrame:
    """The records with a column for every field of ``Config`` that they have not: null where several values share them.

    Args:
      folder: where they lie.
      manifest: of that folder.
      names: the chunks that the records are of, in order.
      records: all their rows.
    """
    axes = manifest["grid"]["axes"]
    absent = [name for name in axes if name not in records.columns]
    swept = [name for name in absent if len(axes[name]) > 1]
    constant = {name: pl.Series(name, axes[name]) for name in absent if name not in swept}
    records = records.with_columns(pl.lit(values).first().alias(name) for name, values in constant.items())
    if not swept:
        return records
    if "batches" not in manifest:
        warnings.warn(
            f"{folder} was made by an earlier version: its records do not say which {', '.join(swept)} they are of. "
            "Run the command that made it again, which computes nothing anew.",
            stacklevel=3,
        )
        return records
    fields = read_fields(folder)
    return records.with_columns(fields[_cells(manifest, names, fields)].select(swept))


def _cells(manifest: dict, names: Sequence[str], fields: pl.DataFrame) -> np.ndarray:
    """For each row of the chunks, in order, the row of its cell among the fields."""
    chunks, wanted = manifest["chunks"], set(names)
    # A kill may have left fields of a larger grid, which begin with the same batches.
    cells = np.bincount(fields["batch"].to_numpy())[: len(manifest["batches"])]
    places: dict[str, np.ndarray] = {}
    every, above = iter(chunks), 0
    for count, size in zip(manifest["batches"], cells.tolist(), strict=True):
        start = 0
        for _ in range(count):
            name = next(every)
            rows = chunks[name][0]
            if name in wanted:
                places[name] = above + np.arange(start, start + rows) % size
            start += rows
        above += size
    return np.concatenate([places[name] for name in names])
