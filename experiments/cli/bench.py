"""``python -m experiments bench``: speed, memory and what is lost to kills, measured."""

import signal
from pathlib import Path
from typing import Literal

import tyro

from experiments.cli.arguments import known_experiment
from experiments.questions import questions
from experiments.report.tables import rewritten
from gvgap_jax.runtime.files import explained
from gvgap_jax.sweep import folder_at

BENCHES = {
    "fits": "fits against PyTorch, SciPy and plain JAX at the same optimality",
    "sweeps": "fits a second by chunk size and devices; time and memory of a run",
    "kills": "runs that are killed again and again, against an undisturbed one",
    "transformers": "training and decoding against PyTorch, TRL and transformers; many seeds at once",
    "coverage": "how often the intervals of findings hold what they estimate, at 8 to 64 seeds",
    "memory": "what a training is estimated to need, against what it takes",
    "gpu": "a rented GPU in 12 minutes: fits, PyTorch, leaf pass, seeds, training and decoding, against what it can do",
    "tpu": "the same on TPUs",
}
MINUTES = 12.0
TABLE = "accelerators"  # in a Markdown file


def bench(
    what: tyro.conf.Positional[
        Literal["fits", "sweeps", "kills", "transformers", "coverage", "memory", "gpu", "tpu"]
    ] = "fits",
    out: str = "results/benchmarks",
    experiment: str | None = None,
    preset: Literal["quick", "paper", "full"] = "quick",
    kills: int = 20,
    minutes: float = MINUTES,
    size: Literal["full", "tiny"] = "full",
    tables: Path | None = None,
) -> None:
    """Measure speed, memory and intervals, or what kills lose.

    Args:
      what: is measured; ``python -m experiments list`` has a line on each.
      out: folder of the tables; those of all but fits go into folders of these names in it. For gpu and tpu it may be
        in an object store.
      experiment: what sweeps and kills run; if left out the largest quick one for sweeps, sample_complexity for kills.
        For kills also tldr, which is killed in every stage.
      preset: which grid of that experiment.
      kills: how many processes are killed.
      minutes: that gpu and tpu may take; the same command goes on with the rows that are missing. 0 measures nothing
        and shows what is stored.
      size: tiny takes a minute on any machine, to see before renting that every row of gpu and tpu works.
      tables: a Markdown file whose table accelerators, between its markers, is written anew from what gpu and tpu have
        stored.

    Raises:
      ValueError: there is no such experiment, this benchmark has no such option, or the wrong devices are here.
    """
    if experiment and what not in ("sweeps", "kills"):
        raise ValueError(f"only sweeps and kills run an --experiment, as in: bench sweeps --experiment {experiment}.")
    accelerator = what in ("gpu", "tpu")
    if not accelerator and ((minutes, size, tables) != (MINUTES, "full", None) or "://" in out):
        raise ValueError("only gpu and tpu have --minutes, --size and --tables, and write to an object store.")
    folder = Path(out)
    match what:  # each is imported only here: some need extras, and are slow to import
        case "gpu" | "tpu":
            from experiments.benchmarks import accelerators

            text = tables.read_text(encoding="utf-8") if tables else ""
            if tables:
                rewritten(text, {TABLE: ""})  # the file has a place for it, or nothing is measured
            made = accelerators.main(what, folder_at(out), size, minutes)
            if tables:
                with explained(tables):
                    tables.write_text(rewritten(text, {TABLE: made}), encoding="utf-8")
        case "fits":
            from experiments.benchmarks import fits

            fits.main(folder)
        case "transformers":
            from experiments.benchmarks import language_models

            language_models.main(folder / "transformers")
        case "coverage":
            from experiments.benchmarks import coverage

            coverage.main(folder / "coverage")
        case "memory":
            from experiments.benchmarks import memory

            memory.main(folder / "memory")
        case "sweeps":
            from experiments.benchmarks import sweeps

            name = known_experiment(experiment or sweeps.default_experiment())
            sweeps.main(folder / "sweeps", sweeps.Bench(name, questions()[name].PRESETS[preset]))
        case "kills" if not hasattr(signal, "SIGKILL"):
            raise ValueError("bench kills needs SIGKILL, which Windows does not have: run it on Linux or macOS.")
        case "kills" if experiment == "tldr":
            from experiments.benchmarks import tldr_kills

            tldr_kills.main(folder / "kills-tldr")
        case "kills":
            from experiments.benchmarks import kills as killing

            name = known_experiment(experiment or "sample_complexity")
            killing.main(folder / "kills", (name, "--preset", preset), kills)
