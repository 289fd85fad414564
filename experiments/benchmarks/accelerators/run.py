"""The budget: row after row while time is left, each in a process of its own and stored as soon as it is measured."""

import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.extend.backend import get_backend

from experiments.benchmarks import fresh
from experiments.benchmarks.accelerators import stored, table
from experiments.benchmarks.accelerators.rows import Row, SizeName, rows
from experiments.benchmarks.accelerators.stored import Key, Measured, Stored
from experiments.benchmarks.tables import console
from experiments.kit.terminal import PROGRAM, signals_caught, stop
from gvgap_jax.runtime import files, provenance
from gvgap_jax.runtime.devices import use_all_cores
from gvgap_jax.runtime.files import Folder

MEMORY = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU, that jax takes at its start
SHARE = ".92"
LOG = "printed.log"  # beside the rows, in a local folder: what the processes that measured them said
PATIENCE = 3  # times the expected seconds that a row may take
START = 180.0  # seconds for jax to start
CLOCKS = "name,clocks.max.sm,clocks.max.mem,power.limit"


class Machine(NamedTuple):
    """What rows are measured on: jax's name of the platform, the device and how many, versions, and what made a row."""

    platform: str
    device: str
    devices: int
    versions: dict[str, str]
    made_by: dict[str, Any]

    def key(self, row: Row) -> Key:
        """What a row is of here."""
        others = {name: _version(name) for name in row.packages}
        return Key(row.name, row.settings, self.device, self.devices, self.versions | others)


def main(platform: Literal["gpu", "tpu"], out: Folder, size: SizeName, minutes: float) -> str:
    """Measure what is missing, print the tables, and give them in Markdown, with those of the other platform.

    Raises:
      ValueError: the minutes are negative, jax cannot start, or it runs on another platform.
      OSError: a folder cannot be read or written.
    """
    if not 0 <= minutes < math.inf:
        raise ValueError(f"--minutes must not be negative, got {minutes}.")
    every, folders = rows(size), {name: folder_of(out, name, size) for name in ("gpu", "tpu")}
    if minutes:
        measure(None if size == "tiny" else platform, every, folders[platform], minutes)
    found = {name: _loaded(folder) for name, folder in folders.items()}
    for device, each in table.by_device(found[platform]).items():
        console.print(table.on_screen(every, device, each))
        for sentence in table.comparisons(each):
            console.print(sentence, highlight=False)
    console.print(table.LEGEND if found[platform] else f"{folders[platform]} has no rows yet.", highlight=False)
    command = f"{PROGRAM} bench {platform}" + (" --size tiny" if size == "tiny" else "")
    return table.in_markdown(every, [each for rows in found.values() for each in rows], command)


def folder_of(out: Folder, platform: str, size: SizeName) -> Folder:
    """Where the rows are; tiny ones are apart, because they say nothing of a device."""
    return out / (platform if size == "full" else f"{platform}-{size}")


def measure(platform: str | None, rows: Sequence[Row], folder: Folder, minutes: float) -> None:
    """Measure the rows that a folder lacks, in their order, for so many minutes at most.

    What is expected to take more than is left is left out. A signal lets the row at hand finish.

    Raises:
      ValueError: jax cannot start, or runs on another platform than the one that is wanted.
      OSError: the folder cannot be read or written.
    """
    end = time.monotonic() + 60 * minutes
    with files.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = {each.key.name for each in _loaded(folder) if each.measured}
    with tempfile.TemporaryDirectory() as scratch, signals_caught() as caught:
        log = Path(folder if files.is_local(folder) else scratch) / LOG
        machine = _machine(platform, log, end)
        for number, row in enumerate(rows, start=1):
            if caught:
                break
            key, left = machine.key(row), end - time.monotonic()
            if key.name in done:
                outcome = "stored already"
            elif row.seconds > left:
                outcome = f"left out: it takes about {row.seconds:,.0f} s, and {max(left, 0):,.0f} s are left"
            else:
                outcome = _outcome(row, key, machine, folder, log, left)
            console.print(f"{number}/{len(rows)} {row.name}: {outcome}", highlight=False, soft_wrap=True, markup=False)
    if caught:
        stop(caught)


def _loaded(folder: Folder) -> list[Stored]:
    found, damaged = stored.load(folder)
    for sentence in damaged:
        console.print(f"damaged: {sentence}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    return found


def _outcome(row: Row, key: Key, machine: Machine, folder: Folder, log: Path, left: float) -> str:
    """Measure a row, store it or why it failed, and say it."""
    started = time.monotonic()
    try:
        measured = fresh.in_time(min(left, PATIENCE * row.seconds), log, prepared, row)
    except fresh.Failed as error:
        stored.save(folder, Stored(key, machine.made_by | _now(), None, str(error)))
        return f"not measured: {error}"
    seconds = time.monotonic() - started
    stored.save(folder, Stored(key, machine.made_by | _now() | {"seconds": round(seconds, 1)}, measured))
    return f"{table.rate(measured)}, after {seconds:.0f} s"


def prepared(row: Row) -> Measured:
    """Measure a row in a process that is for this alone. Nothing is taken from a cache of compiled programs."""
    _prepare()
    return row.measure(**row.settings)


def look() -> Machine:
    """What this process finds itself on."""
    _prepare()
    made_by = provenance.environment()
    versions = made_by["versions"] | {"platform": " ".join(get_backend().platform_version.split())}
    made_by = {name: value for name, value in made_by.items() if name not in ("versions", "device", "devices")}
    return Machine(
        platform=jax.default_backend(),
        device=jax.local_devices()[0].device_kind,
        devices=jax.local_device_count(),
        versions=versions,
        made_by=made_by | {"clocks": _clocks()},
    )


def _prepare() -> None:
    use_all_cores()
    jax.config.update("jax_enable_compilation_cache", False)
    if not any(name in os.environ for name in MEMORY):
        os.environ[MEMORY[0]] = SHARE


def _machine(platform: str | None, log: Path, end: float) -> Machine:
    try:
        machine = fresh.in_time(min(START, end - time.monotonic()), log, look)
    except fresh.Failed as error:
        raise ValueError(f"jax cannot start here: {error} See python -m experiments doctor.") from error
    if platform and machine.platform != platform:
        raise ValueError(
            f"bench {platform} is for a {platform.upper()}, and jax runs on {machine.platform} here: see python -m "
            f"experiments doctor --platform {platform}. With --size tiny every row runs here, to see that it works."
        )
    console.print(f"{machine.device} x {machine.devices}", highlight=False)
    return machine


def _clocks() -> str:
    """A GPU's highest clocks and its power limit, as its driver says."""
    if jax.default_backend() != "gpu" or not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()


def _now() -> dict[str, str]:
    return {"created": datetime.now(UTC).isoformat(timespec="seconds")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
