"""``python -m experiments run tldr``: the stages, one after another, for every seed."""

import dataclasses
import signal
import time

from experiments.kit.terminal import console, signals_caught, stop
from experiments.tldr import corpus, evaluation, plan, report, stages
from experiments.tldr.run import Run, Stopped, claim
from experiments.tldr.settings import STAGES, Options
from gvgap_jax.runtime import processes
from gvgap_jax.sweep import folder_at
from gvgap_jax.training import layouts

WORK = {
    "sft": stages.sft,
    "rm": stages.rm,
    "dpo": stages.dpo,
    "online": stages.online_dpo,
    "evaluate": evaluation.evaluate,
}


def run(options: Options) -> None:
    """Estimate what the run needs, then go through its stages.

    Raises:
      ValueError: the options contradict each other, or the run cannot fit.
      SystemExit: the run was stopped: status 128 + signal.
    """
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}.")
    processes.join(options.distributed)
    console.quiet = not processes.is_first()
    plan.show(options)
    if options.dry_run:
        return
    sizes = options.layout
    layout = layouts.layout(sizes.data, sizes.fsdp, sizes.tensor)
    wanted = STAGES if options.stage == "all" else (options.stage,)
    with signals_caught() as caught:
        try:
            for seed in range(options.recipe.seed, options.recipe.seed + options.seeds):
                recipe = dataclasses.replace(options.recipe, seed=seed)
                folder = folder_at(options.folder) / f"seed-{seed}"
                _one_seed(Run(recipe, folder, layout, lambda: bool(caught)), wanted)
        except Stopped:
            stop(caught or [signal.SIGTERM])  # that another process was sent
    if "evaluate" in wanted and processes.is_first():
        report.write(folder_at(options.folder))


def _one_seed(run: Run, wanted) -> None:
    claim(run)
    text = corpus.prepare(run)
    for stage in wanted:
        started = time.perf_counter()
        console.print(f"[bold]seed {run.recipe.seed}, {stage}[/bold]")
        WORK[stage](run, text)
        console.print(f"{stage} took {time.perf_counter() - started:.0f} s")
