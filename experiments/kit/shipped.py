"""Records that come with the project, so that a fresh clone shows what was found before anything is run."""

from pathlib import Path

from experiments.kit.backends import BackendName
from experiments.kit.presets import Preset, default_folder
from gvgap_jax.runtime.files import Folder
from gvgap_jax.sweep.look import MANIFEST
from gvgap_jax.sweep.records import provenances

RECORDS = Path(__file__).parents[1] / "records"
SHIPPED: Preset = "standard"  # the preset whose records they are
CORES = 2  # of the machine that costs are stated for


def place_of(name: str, backend: BackendName = "tree") -> Path:
    """Where the shipped records of an experiment lie, or would lie."""
    return Path(default_folder(name, SHIPPED, str(RECORDS), backend))


def shipped(name: str, preset: str, backend: BackendName = "tree") -> Folder | None:
    """The folder of an experiment's shipped records of a preset; None where there are none."""
    folder = place_of(name, backend)
    return folder if preset == SHIPPED and (folder / MANIFEST).exists() else None


def minutes(folder: Folder) -> float:
    """What the records of a folder cost on ``CORES`` quiet cores: the processor seconds of all that made them."""
    return sum(made_by.get("processor_seconds", 0.0) for made_by in provenances(folder).values()) / CORES / 60
