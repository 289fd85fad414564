"""Devices that a program is compiled for: those of this machine, or of a slice that is not there.

XLA compiles for a TPU or a GPU without one, given its description. libtpu brings those of TPUs (extra
``rehearse-tpu``); ``gpus/*.txtpb`` beside this file are those of GPUs (compiler: extra ``rehearse-gpu``).
"""

import contextlib
import difflib
import importlib
import math
import os
import re
import sys
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from gvgap_jax.runtime.chips import Chip, chip_named, chip_of
from gvgap_jax.runtime.devices import USABLE
from gvgap_jax.runtime.machine import total_memory
from gvgap_jax.runtime.messages import reason
from gvgap_jax.runtime.packages import command, is_installed


class Target(NamedTuple):
    """Devices, and what each of them can do.

    Attributes:
      name: of the slice, as clouds name it: ``v5e-8``, ``h100x8``; of the machine's own devices, ``here``.
      chip: one device.
      devices: as JAX orders them; those of a slice compile and cannot compute.
    """

    name: str
    chip: Chip
    devices: tuple[Any, ...]

    @property
    def platform(self) -> str:
        """``tpu``, ``gpu`` or ``cpu``."""
        return self.devices[0].platform

    @property
    def memory_bytes(self) -> int:
        """Bytes that a program may use on each device."""
        return int(USABLE * self.chip.memory_bytes)


class Family(NamedTuple):
    """Slices of one chip.

    Attributes:
      chip: its name.
      counted: what a slice's number counts in a chip: its cores (2), or the chip itself (1).
      topologies: chips along each side of each slice.
      options: of libtpu, beyond the chips of a host.
    """

    chip: str
    counted: int
    topologies: str
    options: dict[str, str]


FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16"
TPUS = {
    "v4": Family("TPU v4", 2, CUBES, {"chip_config_name": "megacore"}),  # both cores as one device, as JAX has them
    "v5e": Family("TPU v5e", 1, FLAT, {}),
    "v5p": Family("TPU v5p", 2, f"{CUBES} 16x16x16 16x16x24", {}),
    "v6e": Family("TPU v6e", 1, FLAT, {}),
    "tpu7x": Family("TPU7x", 2, CUBES, {}),
}
ALSO = {"v5litepod": "v5e", "tpuv": "v", "ironwood": "tpu7x", "v7x": "tpu7x"}  # other names of the same
GPUS = ("h100", "h200", "a100-40gb", "a100-80gb", "l4", "rtx-4090")  # descriptions beside this file
IN_A_HOST = (1, 2, 4, 8)  # GPUs: farther ones are not reached over the links of a chip
ALONE = "1x1"
ONE_HOST = "2x4"  # eight chips of a v5e or v6e; all other slices have four in each host


def here() -> Target:
    """The local devices, with the memory that they say they have; CPU devices share the machine's memory evenly."""
    devices = tuple(jax.local_devices())
    chip = chip_of(devices[0].device_kind) or chip_named("cpu")._replace(name=f"{devices[0].device_kind} (not known)")
    statistics = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    memory = (statistics or {}).get("bytes_limit", total_memory() // len(devices))
    return Target("here", chip._replace(memory_bytes=memory), devices)


def target(name: str) -> Target:
    """The devices of a slice as clouds name it, whatever its letters' case, spaces and hyphens.

    The number of a v4, v5p or tpu7x slice counts cores, two a chip; that of a v5e or v6e counts chips. From here on
    this process computes on its CPU alone.

    Raises:
      ValueError: there is no such slice, the package that knows its devices is not installed, or it fails.
    """
    family, size = parsed(name)
    jax.config.update("jax_platforms", "cpu")  # a process that asks for a TPU or a GPU would wait for it, and fail
    devices = _tpus(family, size) if family in TPUS else _gpus(family, size)
    chip = TPUS[family].chip if family in TPUS else family
    return Target(_written(family, size), chip_named(chip), tuple(devices))


def slices() -> dict[str, tuple[str, int]]:
    """Names of all slices, with their family and number."""
    tpus = {family: _topologies(family) for family in TPUS}
    gpus = {family: IN_A_HOST for family in GPUS}
    return {_written(family, size): (family, size) for family, sizes in (tpus | gpus).items() for size in sizes}


def _topologies(family: str) -> dict[int, str]:
    """Topologies by the number in the name of their slice."""
    named = TPUS[family].topologies.split()
    return {TPUS[family].counted * math.prod(map(int, each.split("x"))): each for each in named}


def _written(family: str, size: int) -> str:
    return f"{family}-{size}" if family in TPUS else f"{family}x{size}"


def parsed(name: str) -> tuple[str, int]:
    """The family and the number of a slice, however its name is written.

    Raises:
      ValueError: there is no such slice.
    """
    known = {_plain(each): each for each in slices()}
    plain = _plain(name)
    for other, usual in ALSO.items():
        plain = re.sub(f"^{other}", usual, plain)
    if plain in known:
        return slices()[known[plain]]
    family = next((each for each in (*TPUS, *GPUS) if re.fullmatch(rf"{_plain(each)}x?\d+", plain)), "")
    if family:
        sizes = " ".join(each for each, of in slices().items() if of[0] == family)
        counted = " (the number counts cores, two a chip)" if family in TPUS and TPUS[family].counted == 2 else ""
        raise ValueError(f"there is no slice {name!r}; of {family} there are {sizes}{counted}.")
    largest = ", ".join(
        _written(each, max(size for of, size in slices().values() if of == each)) for each in (*TPUS, *GPUS)
    )
    alike = [each for each in known if each[:4] == plain[:4]] or known
    nearest = difflib.get_close_matches(plain, alike, n=1)
    hint = f" Did you mean {known[nearest[0]]!r}?" if nearest else ""
    raise ValueError(f"there is no slice {name!r}; there are, and smaller ones of them: {largest}.{hint}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _tpus(family: str, size: int) -> list[Any]:
    if not is_installed("libtpu"):
        raise ValueError(f"compiling for {family} needs libtpu, which is not installed; run: {command('libtpu')}")
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    topology = _topologies(family)[size]
    host = (1, 1, 1) if topology == ALONE else (2, 4, 1) if topology == ONE_HOST else (2, 2, 1)
    return _described(family, "tpu", f"{family}:{topology}", chips_per_host_bounds=host, **TPUS[family].options)


QUIET = {  # read by libtpu when it is loaded
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server of a TPU machine to wait for
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the lock guards devices, and compiling uses none
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def _gpus(family: str, size: int) -> list[Any]:
    plugin = next((each for each in PLUGINS if is_installed(each)), None)
    if plugin is None:
        needed = command("jax-cuda12-plugin")
        raise ValueError(f"compiling for {family} needs jax-cuda12-plugin, which is not installed; run: {needed}")
    options = {"topology": f"1x1x{size}", "target_config": description(family)}
    try:
        return _described(family, "cuda", "", **options)
    except NotImplementedError:  # this process has used JAX, which looked for a driver then and left the plugin out
        with _silence():
            importlib.import_module(PLUGINS[plugin]).initialize()
        return _described(family, "cuda", "", **options)


PLUGINS = {"jax_cuda12_plugin": "jax_plugins.xla_cuda12", "jax_cuda13_plugin": "jax_plugins.xla_cuda13"}


def description(gpu: str) -> str:
    """What XLA has to know of a GPU: a text of its ``GpuTargetConfigProto``."""
    return (resources.files("gvgap_jax.runtime") / "gpus" / f"{gpu}.txtpb").read_text(encoding="utf-8")


def _described(family: str, platform: str, name: str, **options) -> list[Any]:
    try:
        with _silence():
            return topologies.get_topology_desc(name, platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler that is installed does not know {family}: {reason(error)}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on the error stream: the libraries write there that this machine has no such device."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
