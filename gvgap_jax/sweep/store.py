"""Records on disk: a folder of immutable Parquet files, one a chunk, beside a manifest of what made them."""

import dataclasses
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax
import polars as pl

MANIFEST = "manifest.json"


def open_folder(folder: Path, experiment: str, meaning: int, config) -> None:
    """Make ``folder`` ready for records of this experiment and configuration.

    Raises:
      ValueError: the folder holds records of another experiment, meaning or configuration.
      OSError: the folder cannot be written.
    """
    identity = {
        "experiment": experiment,
        "meaning": meaning,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
    }
    path = folder / MANIFEST
    if path.exists():
        found = json.loads(path.read_text())
        differing = [key for key in identity if found.get(key) != identity[key]]
        if differing:
            raise ValueError(
                f"{folder} holds records of another configuration ({_differences(found, identity)}). "
                "Choose another --out, or remove that folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(identity | environment(), indent=2) + "\n").encode())


def _differences(found: dict, wanted: dict) -> str:
    if found.get("experiment") != wanted["experiment"]:
        return f"experiment {found.get('experiment')!r}, wanted {wanted['experiment']!r}"
    if found.get("meaning") != wanted["meaning"]:
        return f"an earlier meaning of the experiment, {found.get('meaning')} instead of {wanted['meaning']}"
    old, new = found.get("config", {}), wanted["config"]
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    return "; ".join(f"{key} {old.get(key)} there, {new.get(key)} now" for key in keys)


def environment() -> dict:
    """Versions, device kind and revision, for the manifest."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gvgap_jax", "jax", "jaxlib", "numpy", "optax", "flax")},
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
    }


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return found.stdout.strip()


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: a reader sees the whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def save(folder: Path, name: str, records: pl.DataFrame) -> None:
    """Store one chunk of records as ``name``.parquet."""
    temporary = folder / f".{name}.{os.getpid()}"
    records.write_parquet(temporary)
    temporary.replace(folder / f"{name}.parquet")


def exists(folder: Path, name: str) -> bool:
    """Whether the chunk called ``name`` is stored."""
    return (folder / f"{name}.parquet").exists()


def load(folder: Path | str, table: str) -> pl.DataFrame:
    """All records of one table of a folder, as one data frame in a fixed order.

    Raises:
      FileNotFoundError: the folder holds no records of that table.
    """
    files = sorted(Path(folder).glob(f"{table}-*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no records of {table!r}. Run the experiment first, or name its --out folder."
        )
    return pl.concat([pl.read_parquet(file) for file in files])
