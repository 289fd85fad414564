"""What a run would find on this machine: devices, memory, versions, the cache of compiled programs; what is wrong."""

import os
import shutil
from pathlib import Path
from typing import Literal

import jax
from rich.markup import escape

from experiments.cli import checks
from experiments.kit.terminal import console, names
from gvgap_jax.runtime.devices import memory_per_device
from gvgap_jax.runtime.machine import number_of_cores
from gvgap_jax.runtime.provenance import environment
from gvgap_jax.runtime.units import GIB, MIB
from gvgap_jax.sweep import at_once

ADVICE = {
    "tpu": 'On a TPU VM: pip install "jax[tpu]", unset JAX_PLATFORMS, and see that no other process holds the TPU '
    "(sudo lsof -w /dev/accel* /dev/vfio/*).",
    "gpu": 'With an NVIDIA driver (nvidia-smi must list the GPU): pip install "jax[cuda13]", and unset JAX_PLATFORMS '
    "and CUDA_VISIBLE_DEVICES.",
    "cpu": "Set JAX_PLATFORMS=cpu.",
}
Platform = Literal["cpu", "gpu", "tpu"]


def doctor(
    platform: Platform | None = None,
    extras: tuple[str, ...] = (),
    coordinator_port: int | None = None,
    disk: float = 0.0,
) -> None:
    """Show devices, memory and versions, and what is wrong with them.

    Args:
      platform: fail unless jax runs on it, so that a silent fall-back to the CPU wastes no night.
      extras: fail unless these extras of gvgap_jax are installed, as in ``--extras tldr gcs``.
      coordinator_port: fail if another process listens on this port here.
      disk: fail unless so many GiB are free here.

    Raises:
      SystemExit: something is not as a run needs it (status 1).
      ValueError: there is no such extra or port.
    """
    wrong = [  # before jax starts: looking at the TPU's lock would drop it if it were this process's own
        *(checks.of_tpu_locks() if platform == "tpu" else []),
        *checks.of_versions(),
        *checks.of_extras(extras),
        *checks.of_driver(),
        *checks.of_port(coordinator_port),
        *checks.of_disk(disk),
    ]
    wrong += _wrong_with_jax(platform)
    for sentence in wrong:
        console.print(f"[red]{escape(sentence)}[/red]", highlight=False, soft_wrap=True)
    if wrong:
        raise SystemExit(1)


def _wrong_with_jax(platform: Platform | None) -> list[str]:
    """Start jax and show what it finds, or say why it cannot."""
    try:
        backend = jax.default_backend()
    except RuntimeError as error:
        advice = ADVICE[platform] if platform else "Name the --platform that you want for advice."
        return [f"jax cannot start: {' '.join(str(error).split()).removesuffix('.')}. {advice}"]
    console.print(names("This machine, as a run sees it", facts()))
    if platform and backend != platform:
        return [f"wanted {platform}, but jax runs on {backend}. {ADVICE[platform]}"]
    return checks.of_shared_memory() if backend == "gpu" and jax.local_device_count() > 1 else []


def facts() -> dict[str, str]:
    """What there is, by name."""
    made_by, place = environment(), at_once.place()
    most = place.most * len(place.devices)
    return {
        "platform": jax.default_backend(),
        "devices": f"{made_by['devices']} ({made_by['device']})",
        "memory a device may use": f"{memory_per_device() / GIB:.1f} GiB",
        "cells of a sweep at once": f"up to {most:,}" if most else "a chunk",
        "cores": str(number_of_cores()),
        "python": made_by["python"],
        **made_by["versions"],
        "extras": ", ".join(checks.complete_extras()) or "none",
        "revision": made_by["revision"],
        "compiled programs": _cache(),
        "disk here": f"{shutil.disk_usage('.').free / GIB:.1f} GiB free",
    }


def _cache() -> str:
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not folder:
        return "not kept: every process compiles again"
    path = Path(folder)
    if not path.exists():
        return f"{path} (empty)"
    sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
    state = "" if os.access(path, os.W_OK) else ", NOT WRITABLE: every process compiles again"
    return f"{path} ({len(sizes):,} files, {sum(sizes) / MIB:.0f} MiB{state})"
