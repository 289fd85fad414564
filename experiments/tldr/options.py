"""The options of ``run tldr``: a preset of the recipe, every number of it, and how far and where it runs."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from experiments.kit.presets import RESULTS, named_by
from experiments.tldr.settings import PRESETS, PresetName, Recipe, Sizes, Stage
from gvgap_jax.runtime.processes import Processes


@dataclass(frozen=True)
class Options:
    """Fine-tune language models on preferences by the paper's recipe, and compare SFT, DPO, online DPO and best-of-n.

    Attributes:
      recipe: every number of the run.
      preset: which recipe the other options change.
      stage: how far to go; what a stage needs and is not there is an error, except with ``all``.
      out: folder of everything that is made, local or in an object store; results/tldr-PRESET if left out.
      seeds: independent repetitions, from the recipe's seed on; intervals are over them if there are several.
      layout: how devices share the work.
      distributed: several processes that train together.
      dry_run: print what it will need, and stop.
      chip: kind of device that is estimated for; the local one if left out.
      devices: how many devices are estimated for; the local ones if left out.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    preset: PresetName = "laptop"
    stage: Stage | Literal["all"] = "all"
    out: str | None = None
    seeds: int = 1
    layout: Sizes = dataclasses.field(default_factory=Sizes)
    distributed: Annotated[Processes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Processes)
    dry_run: bool = False
    chip: str | None = None
    devices: int | None = None

    @property
    def folder(self) -> str:
        """Of everything that is made."""
        return self.out or f"{RESULTS}/tldr-{self.preset}"


def options_with(arguments: list[str]) -> type[Options]:
    """The options with the defaults of the preset that the arguments name."""
    preset = named_by("--preset", get_args(PresetName), arguments, Options.preset)
    return dataclasses.make_dataclass(
        "Tldr",
        [
            ("recipe", Annotated[Recipe, tyro.conf.arg(name="")], dataclasses.field(default=PRESETS[preset])),
            ("preset", PresetName, dataclasses.field(default=preset)),
        ],
        bases=(Options,),
        frozen=True,
        namespace={"__doc__": Options.__doc__},
    )
