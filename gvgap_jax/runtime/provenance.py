"""What made a file: versions, device kind, precision, host and revision."""

import platform
import socket
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from gvgap_jax.runtime.files import Provenance


def environment() -> Provenance:
    """Versions, device kind, precision of matrix products, host and revision: what made a file."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("gvgap_jax", "jax", "jaxlib", "numpy", "optax", "flax")},
        "device": jax.local_devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore
    }


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return described.stdout.strip()
