"""What a run would find on this machine: devices, memory, versions, the cache of compiled programs."""

import os
import shutil
from pathlib import Path
from typing import Literal

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gvgap_jax.parallel import memory_per_device
from gvgap_jax.sweep.store import environment

console = Console()
GIB = 2**30
ADVICE = {
    "tpu": 'On a TPU VM: pip install "jax[tpu]", unset JAX_PLATFORMS, and see that no other process holds the TPU '
    "(sudo lsof -w /dev/accel* /dev/vfio/*).",
    "gpu": 'With an NVIDIA driver (nvidia-smi must list the GPU): pip install "jax[cuda13]", and unset JAX_PLATFORMS '
    "and CUDA_VISIBLE_DEVICES.",
    "cpu": "Set JAX_PLATFORMS=cpu.",
}


def doctor(platform: Literal["cpu", "gpu", "tpu"] | None = None) -> None:
    """Show devices, memory, versions and the cache folder, and whether a run can rely on them.

    Args:
      platform: fail unless jax runs on it, so that a silent fall-back to the CPU wastes no night.

    Raises:
      SystemExit: the platform is another one (status 1).
    """
    table = Table(show_header=False, title="This machine, as a run sees it", title_justify="left")
    for name, value in facts().items():
        table.add_row(name, value)
    console.print(table)
    found = jax.default_backend()
    if platform and found != platform:
        console.print(
            f"[red]wanted {platform}, but jax runs on {found}.[/red] {escape(ADVICE[platform])}", soft_wrap=True
        )
        raise SystemExit(1)


def facts() -> dict[str, str]:
    """What there is, by name."""
    made_by = environment()
    return {
        "platform": jax.default_backend(),
        "devices": f"{made_by['devices']} ({made_by['device']})",
        "memory a device may use": f"{memory_per_device() / GIB:.1f} GiB",
        "cores": str(len(os.sched_getaffinity(0))),
        "python": made_by["python"],
        **made_by["versions"],
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
    return f"{path} ({len(sizes):,} files, {sum(sizes) / 2**20:.0f} MiB{state})"
