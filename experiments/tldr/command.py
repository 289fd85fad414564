"""``python -m experiments run tldr``: the stages, one after another, for every seed."""

import dataclasses
import signal
import time

from experiments.kit.terminal import console, signals_caught, stop
from experiments.tldr import corpus, evaluation, plan, report, stages
from experiments.tldr.corpus import Corpus, Unseen
from experiments.tldr.options import Options
from experiments.tldr.run import Run, Stopped
from experiments.tldr.settings import STAGES, Stage
from gvgap_jax.runtime import processes
from gvgap_jax.sweep import folder_at
from gvgap_jax.training import layouts


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
    run, text, unseen = corpus.prepare(run)
    stages.check_sizes(run, text, unseen, wanted)
    for stage in wanted:
        started = time.perf_counter()
        console.print(f"[bold]seed {run.recipe.seed}, {stage}[/bold]")
        _do(stage, run, text, unseen)
        console.print(f"{stage} took {time.perf_counter() - started:.0f} s")


def _do(stage: Stage, run: Run, text: Corpus, unseen: Unseen) -> None:
    match stage:
        case "sft":
            stages.sft(run, text)
        case "rm":
            stages.rm(run, text)
            stages.judge(run, unseen)
        case "dpo":
            stages.dpo(run, text)
        case "online":
            stages.online_dpo(run, text)
        case "evaluate":
            evaluation.evaluate(run, text, unseen)
