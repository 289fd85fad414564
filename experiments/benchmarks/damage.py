"""Damage to a folder of records, done on purpose: bits that flip, and files for which there is no room."""

import json
from pathlib import Path

import numpy as np

from gvgap_jax.runtime import files
from gvgap_jax.sweep.look import MANIFEST

SMALLEST, LARGEST = 3_000, 12_000  # bytes: more than a log has, and than a chunk has
FLIPPED = "flipped.json"  # beside a folder: names of the files in it in which a bit was flipped


def flip(folder: Path, numbers: np.random.Generator) -> str:
    """Flip one bit of a record, of the manifest or of a digest, and note which; what was done, if there was a file."""
    there = sorted(path for path in folder.glob("*") if path.suffix in (".parquet", ".json", files.DIGEST))
    if not there:
        return ""
    path = there[numbers.integers(len(there))]
    content = bytearray(path.read_bytes())
    place = int(numbers.integers(len(content)))
    content[place] ^= 1 << int(numbers.integers(8))
    path.write_bytes(content)
    kind = "digest" if path.suffix == files.DIGEST else "manifest" if path.name == MANIFEST else "record"
    _note(folder).write_text(json.dumps(sorted({*flipped(folder), path.name.removesuffix(files.DIGEST)})))
    return f"bit {place:,} of a {kind}"


def flipped(folder: Path) -> set[str]:
    """Names of the files of a folder in which, or in whose digest, a bit was flipped."""
    return set(json.loads(_note(folder).read_text())) if _note(folder).exists() else set()


def _note(folder: Path) -> Path:
    return folder.parent / f"{folder.name}-{FLIPPED}"
