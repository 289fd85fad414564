"""What makes runs fail on machines in the cloud, each found before the run: one sentence with what to do about it."""

import contextlib
import os
import re
import shutil
import socket
import struct
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from gvgap_jax.runtime.packages import PROJECT, extras
from gvgap_jax.runtime.units import GIB, MIB

DEVICES = {"jax": ("tpu", "cuda12", "cuda13"), "flax": ()}  # extras that bind other packages' versions on devices
DRIVERS = {"jax-cuda12-plugin": 525, "jax-cuda13-plugin": 580}  # oldest NVIDIA driver
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")
FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process


def of_tpu_locks() -> list[str]:
    """Whether another process holds this machine's TPU; libtpu allows one, which locks a file as long as it lives.

    To be called before this process uses the TPU: closing the file would drop its own lock (POSIX).
    """
    if not hasattr(os, "getuid"):
        return []  # Windows, where no TPU is
    return [sentence for lock in _tpu_locks() if lock.exists() for sentence in _of_lock(lock)]


def _tpu_locks() -> list[Path]:
    """Where libtpu puts its lock, the usual place first."""
    places = [Path("/tmp/libtpu_lockfile"), Path(f"/tmp/libtpu_lock_{os.getuid()}/libtpu_lockfile")]
    with contextlib.suppress(RuntimeError):  # a user without a home
        places.append(Path.home() / ".libtpu_lockfile")
    return places


def _of_lock(lock: Path) -> list[str]:
    try:
        holder = _holder(lock)
    except PermissionError:
        return [
            f"{lock} is another user's (number {lock.stat().st_uid}), who may hold the TPU: see who does with "
            f"sudo lsof -w /dev/accel* /dev/vfio/*, and only if nobody does, sudo rm {lock}."
        ]
    if holder is None:
        return []
    return [
        f"The TPU is held by process {holder}{_command(holder)}: wait for it, or if it is yours and forgotten, stop it "
        f"with kill {holder} (a run of this project stores its state first)."
    ]


def _holder(lock: Path) -> int | None:
    """The process that holds a POSIX lock on a file."""
    import fcntl  # Windows has none

    question = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with lock.open("rb") as file:
        kind, _, _, _, process = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else process


def _command(process: int) -> str:
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:  # it has just ended
        return ""
    return f" ({' '.join(line.split())[:80]})"


def of_versions() -> list[str]:
    """Installed packages that do not fit each other, by what gvgap_jax, jax and flax say that they need."""
    read = {PROJECT: tuple(extras()), **DEVICES}
    return [
        f"{name} {metadata.version(name)} needs {needed.name}{needed.specifier}, but {there or 'none'} is installed: "
        f'pip install "{needed.name}{needed.specifier}".'
        for name, its_extras in read.items()
        for needed, there in _unmet(name, its_extras)
    ]


def _unmet(name: str, extras: Iterable[str]) -> Iterator[tuple[Requirement, str | None]]:
    """Requirements that are not met, with the version that is there; what only an extra needs may be missing."""
    for needed in map(Requirement, metadata.requires(name) or ()):
        there = _version(needed.name)
        if there is None and _applies(needed, ()):
            yield needed, None
        elif there is not None and _applies(needed, extras) and not needed.specifier.contains(there, prereleases=True):
            yield needed, there


def _applies(needed: Requirement, extras: Iterable[str]) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def of_extras(wanted: tuple[str, ...]) -> list[str]:
    """Extras of gvgap_jax that are wanted and not installed; ValueError if there is none of that name."""
    there = extras()
    unknown = [extra for extra in wanted if extra not in there]
    if unknown:
        raise ValueError(
            f"the installed {PROJECT} has no extra {unknown[0]!r}, but {', '.join(there)}; if it is new, install "
            "again (pip install -e .)."
        )
    missing = {extra: _missing(there[extra]) for extra in wanted}
    return [
        f'The extra {extra} is not installed ({", ".join(names)} missing): pip install -e ".[{extra}]".'
        for extra, names in missing.items()
        if names
    ]


def _missing(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _version(name) is None)


def complete_extras() -> list[str]:
    """The extras of gvgap_jax whose packages are all there."""
    return [extra for extra, names in extras().items() if not _missing(names)]


def of_driver() -> list[str]:
    """An NVIDIA driver that is too old for the CUDA that jax is installed with: jax would run on the CPU."""
    driver = re.search(r"\s(\d+)\.\d+(\.\d+)?\s", DRIVER.read_text(encoding="utf-8")) if DRIVER.exists() else None
    number = int(driver[1]) if driver else 0
    instead = ', or pip install "jax[cuda12]" instead' if number >= min(DRIVERS.values()) else ""
    return [
        f"The NVIDIA driver is {driver[0].strip()}, but {plugin} needs {oldest} or newer: update the driver{instead}."
        for plugin, oldest in DRIVERS.items()
        if driver and _version(plugin) and number < oldest
    ]


def of_port(port: int | None) -> list[str]:
    """Whether a coordinator could listen on the port; ValueError if it is none."""
    if port is None:
        return []
    if not 0 < port < 2**16:
        raise ValueError(f"a coordinator's port is between 1 and 65535, got {port}.")
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        return [
            f"Port {port} cannot be listened on here ({os.strerror(error.errno or 0)}): another run's coordinator does "
            f"perhaps, and a second one would end it; choose another --coordinator-port, the same on all hosts (who "
            f"listens: sudo ss -ltnp 'sport = :{port}')."
        ]
    return []


def of_disk(needed: float) -> list[str]:
    """Whether so many GiB are free on the disk of the present folder."""
    free = shutil.disk_usage(".").free / GIB
    if free >= needed:
        return []
    return [
        f"{free:.1f} GiB are free here, {needed:g} are wanted: remove old runs and weights (hf cache ls), or attach a "
        "larger disk."
    ]


def of_shared_memory() -> list[str]:
    """Too little shared memory for NCCL, by which several GPUs of a machine talk; containers are given 64 MiB."""
    total = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.exists() else 0
    if total >= GIB:
        return []
    return [
        f"{SHARED_MEMORY} has {total / MIB:.0f} MiB, too little for several GPUs to talk through: start the "
        "container with --shm-size=1g --ulimit memlock=-1."
    ]
