"""Plans on clusters that exist: chunks to Ray, shards to Slurm. Both packages are optional extras."""

import contextlib
import itertools
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from gvgap_jax.runtime import files
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.runtime.devices import use_all_cores
from gvgap_jax.runtime.packages import optional
from gvgap_jax.runtime.progress import BAR
from gvgap_jax.sweep import at_once
from gvgap_jax.sweep.at_once import Work, WorkOf
from gvgap_jax.sweep.compute import Result, compute
from gvgap_jax.sweep.look import failures
from gvgap_jax.sweep.plan import Chunk, Plan
from gvgap_jax.sweep.run import Claim, Engine, Report, by_programs, cells_of, missing, run_plan, unfinished

RETRIES = 3  # of a task whose worker died
AHEAD = 2  # tasks handed to Ray for every one that can run at once


@dataclass(frozen=True)
class Ray:
    """What a Ray task asks for.

    Attributes:
      address: where a cluster is (``auto`` finds one on this machine); if left out, the one that
        RAY_ADDRESS names, or else a new one on this machine.
      cpus: how many one task has: it computes one chunk, or as many as accelerators compute at once.
      gpus: how many one task has.
      tpus: how many one task has.
    """

    address: str | None = None
    cpus: int = 1
    gpus: int = 0
    tpus: int = 0

    def __post_init__(self):
        if self.cpus < 1 or self.gpus < 0 or self.tpus < 0:
            raise ValueError(f"a Ray task needs at least 1 CPU and no negative number of devices, got {self}.")

    @property
    def resources(self) -> dict[str, int]:
        """Ray's names of what a task needs."""
        return {name: count for name, count in (("CPU", self.cpus), ("GPU", self.gpus), ("TPU", self.tpus)) if count}


def on_ray(options: Ray, modules: tuple[Any, ...] = ()) -> Engine:
    """The engine of a Ray cluster: a task for what is computed at once, tried again when its worker dies.

    ``modules`` are Python packages that the cluster's machines may not have installed; they are sent
    to a cluster at an address.

    Raises:
      ValueError: Ray is not installed, or (when computing starts) the cluster lacks a device that a task asks for.
    """
    ray = optional("ray")

    accelerators = options.gpus or options.tpus
    most = at_once.MOST if accelerators else 0

    def in_order(waiting: list[Chunk], work_of: WorkOf) -> list[list[Chunk]]:
        return [list(itertools.chain(*by_programs(waiting, work_of)))]

    def prepare(works: list[Work], progress: Progress) -> int:
        del works, progress  # workers compile what they need
        _connect(ray, options, modules)
        return 0

    def room(work: Work) -> int:
        return at_once.rows_at_once(work, accelerators, most * accelerators) if accelerators else 0

    def compute_all(waiting: list[Chunk], work_of: WorkOf, claim: Claim) -> Iterator[tuple[Chunk, Result | Exception]]:
        task = ray.remote(_compute_on_worker).options(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            resources={"TPU": options.tpus} if options.tpus else None,
            max_retries=RETRIES,
        )
        cluster = ray.cluster_resources()
        most_tasks = AHEAD * min(int(cluster[name] // count) for name, count in options.resources.items())
        running: dict[Any, list[Chunk]] = {}
        queue = at_once.calls(waiting, work_of, room, claim)
        while True:
            while len(running) < most_tasks and (call := next(queue, None)) is not None:
                work, chunks = call
                running[task.remote(work, [chunk.alone() for chunk in chunks])] = chunks
            if not running:
                return
            (ready,), _ = ray.wait(list(running), num_returns=1)
            chunks = running.pop(ready)
            try:
                results = ray.get(ready)
            except ray.exceptions.RayError as error:
                results = [error] * len(chunks)
            yield from zip(chunks, results, strict=True)

    return Engine(most, in_order, prepare, compute_all)


def _compute_on_worker(work: Work, chunks: list[Chunk]) -> list[Result]:
    keep_compiled_programs()
    return compute(work, chunks, at_once.place())


def _connect(ray: Any, options: Ray, modules: tuple[Any, ...]) -> None:
    if not ray.is_initialized():
        variables = {
            "JAX_NUM_CPU_DEVICES": str(options.cpus),
            "OPENBLAS_NUM_THREADS": "1",
            **({} if options.gpus or options.tpus else {"JAX_PLATFORMS": "cpu"}),
        }
        environment: dict[str, Any] = {"env_vars": variables}
        if options.address:
            environment["py_modules"] = [str(Path(module.__path__[0])) for module in modules]
        with _signal_handlers_kept():
            ray.init(
                address=options.address,
                runtime_env=environment,
                include_dashboard=False if options.address is None else None,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    cluster = ray.cluster_resources()
    for name, count in options.resources.items():
        most = max((node["Resources"].get(name, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if most < count:
            raise ValueError(
                f"a Ray task asks for {count} {name}, but no machine of the cluster has more than {most:g}; all of it "
                f"has {', '.join(f'{n} {c:g}' for n, c in sorted(cluster.items()) if n in ('CPU', 'GPU', 'TPU'))}. "
                f"Ask for less (--ray.{name.lower()}s), or add such a machine."
            )


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Undo Ray's own handlers, which abort the process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Slurm:
    """What a Slurm job asks for.

    Attributes:
      jobs: one job computes one shard of so many.
      partition: where it runs; the cluster's default if left out.
      minutes: after which Slurm ends a job; finished chunks are kept, and the same command goes on.
      cpus: how many one job has.
      gpus: how many one job has.
    """

    jobs: int = 4
    partition: str | None = None
    minutes: int = 240
    cpus: int = 8
    gpus: int = 0

    def __post_init__(self):
        if min(self.jobs, self.minutes, self.cpus) < 1 or self.gpus < 0:
            raise ValueError(f"Slurm needs at least 1 job, minute and CPU, and no negative number of GPUs, got {self}.")


def on_slurm(
    plan: Plan,
    folder: files.Folder,
    options: Slurm,
    cluster: str = "slurm",
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Submit one job a shard and wait for them; the jobs write into ``folder``, which they must be able to see.

    Stopping the wait leaves the jobs running. ``cluster`` is submitit's: ``local`` runs the jobs as processes here.

    Raises:
      ValueError: submitit or Slurm is not there.
    """
    submitit = optional("submitit")
    if cluster == "slurm" and not shutil.which("sbatch"):
        raise ValueError("there is no sbatch here: run --engine slurm on a Slurm login machine, or use --engine local.")
    executor = submitit.AutoExecutor(str(folder / "slurm"), cluster=cluster)
    executor.update_parameters(
        name=plan.experiment,
        timeout_min=options.minutes,
        cpus_per_task=options.cpus,
        gpus_per_node=options.gpus,
        **({"slurm_partition": options.partition} if options.partition else {}),
    )
    started = time.perf_counter()
    with executor.batch():
        jobs = [executor.submit(_run_shard, plan, folder, (index, options.jobs)) for index in range(options.jobs)]
    total = cells_of(plan.chunks)
    waiting = missing(folder, plan.chunks)
    before = cells_of(waiting)
    with Progress(*BAR) as progress:
        bar = progress.add_task(plan.experiment, total=total)
        while not stopped() and not all(job.done() for job in jobs):
            progress.update(bar, completed=total - cells_of(unfinished(folder, waiting)))
            time.sleep(1)
    ended = [(job.job_id, job.exception()) for job in jobs if job.done()]
    failed = failures(folder)
    failed |= {f"job {number}": str(error) for number, error in ended if error}
    left = cells_of(unfinished(folder, waiting))
    return Report(total, before - left, left, failed, 0, 0.0, 0.0, time.perf_counter() - started, 0)


def _run_shard(plan: Plan, folder: files.Folder, part: tuple[int, int]) -> str:
    use_all_cores()
    keep_compiled_programs()
    return str(run_plan(plan, folder, part))
