"""``python -m experiments bench``: speed, memory and what is lost to kills, measured."""

import signal
from pathlib import Path
from typing import Literal

import tyro

from experiments.cli.arguments import known_experiment
from experiments.questions import questions

BENCHES = {
    "fits": "fits against PyTorch, SciPy and plain JAX at the same optimality",
    "sweeps": "fits a second by chunk size and devices; time and memory of a run",
    "kills": "runs that are killed again and again, against an undisturbed one",
    "transformers": "training and decoding against PyTorch, TRL and transformers; many seeds at once",
    "coverage": "how often the intervals of findings hold what they estimate, at 8 to 64 seeds",
    "memory": "what a training is estimated to need, against what it takes",
}


def bench(
    what: tyro.conf.Positional[Literal["fits", "sweeps", "kills", "transformers", "coverage", "memory"]] = "fits",
    out: Path = Path("results/benchmarks"),
    experiment: str | None = None,
    preset: Literal["quick", "paper", "full"] = "quick",
    kills: int = 20,
) -> None:
    """Measure speed, memory and intervals, or what kills lose.

    Args:
      what: is measured; ``python -m experiments list`` has a line on each.
      out: folder of the tables; those of all but fits go into folders of these names in it.
      experiment: what sweeps and kills run; if left out the largest quick one for sweeps, sample_complexity for kills.
        For kills also tldr, which is killed in every stage.
      preset: which grid of that experiment.
      kills: how many processes are killed.

    Raises:
      ValueError: there is no such experiment, or this benchmark runs none.
    """
    if experiment and what not in ("sweeps", "kills"):
        raise ValueError(f"only sweeps and kills run an --experiment, as in: bench sweeps --experiment {experiment}.")
    match what:  # each is imported only here: some need extras, and are slow to import
        case "fits":
            from experiments.benchmarks import fits

            fits.main(out)
        case "transformers":
            from experiments.benchmarks import language_models

            language_models.main(out / "transformers")
        case "coverage":
            from experiments.benchmarks import coverage

            coverage.main(out / "coverage")
        case "memory":
            from experiments.benchmarks import memory

            memory.main(out / "memory")
        case "sweeps":
            from experiments.benchmarks import sweeps

            name = known_experiment(experiment or sweeps.default_experiment())
            sweeps.main(out / "sweeps", sweeps.Bench(name, questions()[name].PRESETS[preset]))
        case "kills" if not hasattr(signal, "SIGKILL"):
            raise ValueError("bench kills needs SIGKILL, which Windows does not have: run it on Linux or macOS.")
        case "kills" if experiment == "tldr":
            from experiments.benchmarks import tldr_kills

            tldr_kills.main(out / "kills-tldr")
        case "kills":
            from experiments.benchmarks import kills as killing

            name = known_experiment(experiment or "sample_complexity")
            killing.main(out / "kills", (name, "--preset", preset), kills)
