"""Compiled programs, kept for the next process."""

import contextlib
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax
import platformdirs

WORTH_KEEPING = 0.1  # seconds of compiling


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another one.

    A user without a home, as containers have them, keeps none.

    Every kind of machine and every jaxlib has a folder of its own: a program may hold instructions that another
    processor lacks, and jax does not look (github.com/jax-ml/jax/issues/38445).
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # no home
            folder = Path(platformdirs.user_cache_dir("gvgap_jax")) / _machine()
            jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)


def _machine() -> str:
    """A name for this processor, with its instruction sets, and this jaxlib."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text(encoding="utf-8").splitlines() if processor.exists() else []
    described = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    facts = [platform.machine(), platform.processor(), version("jaxlib"), *described]
    return f"{platform.machine()}-jaxlib-{version('jaxlib')}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
