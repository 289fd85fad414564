"""Compiled programs, kept for the next process."""

import contextlib
import hashlib
import os
import platform
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import jax
import platformdirs
from jax.experimental.compilation_cache.compilation_cache import reset_cache

WORTH_KEEPING = 0.1  # seconds of compiling
OF_A_TPU_MACHINE = (
    "--xla_tpu_use_enhanced_launch_barrier=true"  # that JAX sets there; flags are a part of a program's key
)


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


@contextlib.contextmanager
def kept_for_a_slice(folder: Path | None = None) -> Iterator[None]:
    """Compile for devices that are not there, inside of it: programs are kept in ``folder``, or not at all.

    A process without the devices can write such a program and not read it: JAX 0.10.2 says that the compiler "must be
    constructed with a Client". A second rehearsal compiles again; without a folder it does not fill the user's.

    A TPU slice that is given the folder as JAX_COMPILATION_CACHE_DIR looks for a program under a key made of its
    StableHLO, jaxlib's version, the compiler's (libtpu's build and the kind of the TPU, written in the same form by
    both), XLA flags, the compiler's options with the order of the devices, and the fingerprint of the topology. The
    first five are made the same here, for the same versions of jax and libtpu. Whether libtpu gives its own devices
    the fingerprint of those that it describes, and loads such a program, is not known: nobody has tried it on a slice.

    A machine with GPUs will hardly find any: the compiler's version should be that of CUDA there, and is the GPU's name
    here. That was not tried either.
    """
    before = jax.config.values["jax_compilation_cache_dir"], os.environ.get("LIBTPU_INIT_ARGS")
    try:
        jax.config.update("jax_compilation_cache_dir", folder and str(folder))
        if folder and before[1] is None:
            os.environ["LIBTPU_INIT_ARGS"] = OF_A_TPU_MACHINE
        reset_cache()  # JAX opens a folder once, and keeps to it
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Error reading persistent compilation cache entry")
            yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        if folder and before[1] is None:
            del os.environ["LIBTPU_INIT_ARGS"]
        reset_cache()


def _machine() -> str:
    """A name for this processor, with its instruction sets, and this jaxlib."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text(encoding="utf-8").splitlines() if processor.exists() else []
    described = sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    facts = [platform.machine(), platform.processor(), version("jaxlib"), *described]
    return f"{platform.machine()}-jaxlib-{version('jaxlib')}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
