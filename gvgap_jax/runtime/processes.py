"""Several processes of one run, such as one a host: joining them, and keeping them in step.

All processes run the same program; a step that one of them does not reach stops the others. A single process
joins nothing, and here waits for nobody.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gvgap_jax.runtime.messages import differences, first_few

TIME_OUT = 300  # seconds that processes wait for each other at the start
LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")  # how many processes a launcher says there are


@dataclass(frozen=True)
class Processes:
    """Where the processes of a run find each other. Give all of it, or nothing.

    With nothing, a TPU slice, Slurm (``srun``), Open MPI and Kubernetes (with jax's extra ``k8s``) tell; where there is
    none of them, the process is alone. Two runs on the same hosts need different ports: on TPUs and in Kubernetes
    they would otherwise take the same one.

    Attributes:
      coordinator: host of process 0, as the others reach it: not localhost, if there are several hosts.
      coordinator_port: a port that is free on that host; it may be given alone.
      processes: how many processes train together.
      process: the number of this one, 0 for the first.

    Raises:
      ValueError: some are given and some are not, or numbers are out of their range.
    """

    coordinator: str | None = None
    coordinator_port: int | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self):
        given = [self.coordinator is not None, self.processes is not None, self.process is not None]
        if any(given) and not (all(given) and self.coordinator_port is not None):
            raise ValueError(
                "Processes: coordinator, coordinator_port, processes and process go together; give all four, or none "
                f"where a TPU slice, Slurm or Kubernetes tells, got {self}."
            )
        if self.coordinator_port is not None and not 0 < self.coordinator_port < 2**16:
            raise ValueError(f"Processes: coordinator_port must be 1 to 65535, got {self.coordinator_port}.")
        if self.processes is not None and not 0 <= (self.process or 0) < self.processes:
            raise ValueError(f"Processes: process must be 0 to {self.processes - 1}, got {self.process}.")


def join(processes: Processes, time_out: int = TIME_OUT) -> None:
    """Meet the other processes, before anything else of jax is used; again does nothing.

    The first process listens at the coordinator's port, and jax ends every process if one of them does not come within
    ``time_out`` seconds, or dies later. Handlers of SIGTERM are left to the caller: jax's own is switched off.

    Raises:
      ValueError: jax is in use already, the port is taken, or the coordinator cannot be reached.
    """
    if jax.distributed.is_initialized() or processes.processes == 1:
        return
    jax.config.update("jax_enable_preemption_service", False)
    host, port = processes.coordinator, processes.coordinator_port
    if port and not host:
        os.environ["JAX_COORDINATOR_PORT"] = str(port)  # where jax looks when it finds the host by itself
    if host and port:
        _wait_for(host, port, time_out) if processes.process else _check_free(port)
    address = host and f"{host}:{port}"
    try:
        jax.distributed.initialize(address, processes.processes, processes.process, initialization_timeout=time_out)
    except (ValueError, RuntimeError) as error:
        if address is None and _is_alone(error):
            return
        late = "must be called before" in str(error)
        words = "jax is in use already: join processes before the first array or device" if late else str(error)
        raise ValueError(f"{words} (asked for: {processes}).") from error
    if jax.default_backend() == "cpu" and jax.process_count() > 1:
        # Kept programs of one process, loaded by another, wait for each other's collectives without end (jax 0.10).
        jax.config.update("jax_enable_compilation_cache", False)


def is_first() -> bool:
    """Whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes are here; ``name`` must be the same in all.

    Raises:
      AssertionError: another process is at a barrier of another name.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(flag: bool) -> bool:
    """Whether any process says yes: the same answer in all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_first(value: Any) -> Any:
    """The value of the first process, JSON, in all of them; what the others give is dropped."""
    if jax.process_count() == 1:
        return value
    content = json.dumps(value).encode() if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    sent = np.frombuffer(content.ljust(size), np.uint8)[:size]
    return json.loads(multihost_utils.broadcast_one_to_all(sent).tobytes())


def check_same(value: dict[str, Any], what: str) -> None:
    """See that all processes have the same of something, a JSON object.

    Raises:
      ValueError: one of them has another.
    """
    differing = differences(from_first(value), value)
    if agreed(bool(differing)):
        words = first_few(differing, "; ") or "another one does not"
        raise ValueError(f"the processes of a run must agree on its {what} ({words}).")


def in_first(action: Callable[[], Any]) -> None:
    """Do something in the first process alone, while the others wait; if it fails there, it fails in all.

    Raises:
      RuntimeError: (in the others) the action raised in the first process, which raises what it raised.
    """
    failure = None
    if is_first():
        try:
            action()
        except Exception as error:
            failure = error
    words = from_first(failure and f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    if words:
        raise RuntimeError(f"the first process failed: {words}")


def _wait_for(host: str, port: int, seconds: int) -> None:
    """Until someone listens there: jax would end the process without a word of what it waits for."""
    until = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=5).close()
            return
        if time.monotonic() > until:
            raise ValueError(
                f"nobody listens at {host}:{port} after {seconds} s: start process 0 there, and let no firewall "
                "close that port."
            )
        time.sleep(0.2)


def _check_free(port: int) -> None:
    """jax, which finds out too, may bring the whole process down over it."""
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise ValueError(
            f"the coordinator's port {port} cannot be listened at ({error.strerror}): another run on this host "
            "may have it; choose another coordinator_port."
        ) from error


def _is_alone(error: Exception) -> bool:
    """Whether jax found no cluster, or, in use already, none that would have others in it."""
    if "coordinator_address should be defined" in str(error):
        return True
    in_use = "must be called before" in str(error)
    return in_use and jax.process_count() == 1 and all(int(os.environ.get(name, 1)) == 1 for name in LAUNCHED)
