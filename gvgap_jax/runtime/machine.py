"""This machine, whatever its operating system: its cores and its memory."""

import ctypes
import functools
import os
import sys

import psutil


def number_of_cores() -> int:
    """Cores that this process may use; all there are where the system does not limit them (macOS, Windows)."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


@functools.cache
def total_memory() -> int:
    """Bytes of the machine, read once: a plan makes hundreds of thousands of trees, and each asks."""
    return psutil.virtual_memory().total


def give_back_memory() -> None:
    """Give the system what this process has freed: glibc keeps gigabytes that compiling took, and never uses them."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)  # musl keeps nothing
