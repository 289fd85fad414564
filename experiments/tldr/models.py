"""Checkpoints as the recipe uses them: opened, laid over the devices, and stored again after a training."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from experiments.kit.presets import RESULTS
from experiments.tldr import toy
from experiments.tldr.run import Run
from experiments.tldr.settings import TOY
from gvgap_jax.lm.data.tokenizer import Tokenizer, open_tokenizer
from gvgap_jax.lm.hf import load, save
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import processes
from gvgap_jax.runtime.files import Folder, folder_at, is_local
from gvgap_jax.types import Params


class Model(NamedTuple):
    """A checkpoint with the shape that it is run in, and the token that ends its responses."""

    checkpoint: load.Checkpoint
    shape: Shape
    tokenizer: Tokenizer

    @property
    def end(self) -> int:
        """The token that ends a response."""
        return self.tokenizer.end


def opened(run: Run, name: str | Folder, revision: str | None = None) -> Model:
    """The checkpoint of that name or in that folder; ValueError if it does not fit its own tokenizer."""
    checkpoint = load.open_checkpoint(_local(str(name)), revision)
    tokenizer = open_tokenizer(checkpoint.folder)
    load.check_vocabulary(checkpoint.shape, tokenizer.size)
    recipe = run.recipe
    return Model(checkpoint, dataclasses.replace(checkpoint.shape, dtype=recipe.dtype, remat=recipe.remat), tokenizer)


def base(run: Run) -> Model:
    """The checkpoint that everything begins from."""
    return opened(run, _place(run, run.recipe.model), run.recipe.revision)


def base_of_reward_model(run: Run) -> Model:
    """The checkpoint that reward models begin from, before its SFT."""
    return opened(run, run.recipe.rm_size) if run.recipe.rm_size else base(run)


def _place(run: Run, name: str) -> str:
    if name != TOY:
        return name
    folder = toy_folder(run)
    if not processes.agreed(processes.is_first() and folder.exists()):
        toy.write(folder)
    return str(folder / "model")


def toy_folder(run: Run) -> Path:
    """Where the toy world lies: beside the seeds, which share it."""
    beside = run.folder.parent if is_local(run.folder) else Path(RESULTS)
    return beside / TOY


def parameters(run: Run, model: Model, outputs: int | None = None) -> Params:
    """Its parameters, straight onto the run's devices; ``outputs`` is 1 for a reward model."""
    return load.load(model.checkpoint, model.shape, outputs, place=run.layout.place)


def trained(run: Run, stage: str) -> Model:
    """The model that a stage left.

    Raises:
      ValueError: the stage is not done.
    """
    folder = run.folder / stage / "model"
    if not is_done(run, stage):
        raise ValueError(f"{folder} is not there: run --stage {_made_by(stage)} first, or --stage all.")
    return opened(run, folder)


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has left its model."""
    return processes.agreed(processes.is_first() and (run.folder / stage / "model" / "config.json").exists())


def _made_by(stage: str) -> str:
    return {"reward_model": "rm", "judge": "rm", "rm_sft": "sft"}.get(stage, stage.split("_from_")[0])


def store(run: Run, stage: str, model: Model, params: Params) -> None:
    """Store what a stage made of a checkpoint, in float32: the next stage goes on from exactly these numbers."""
    folder = run.folder / stage / "model"
    if is_local(folder):
        save.save(folder, model.checkpoint, params, dtype="float32")
        return
    place = Path(processes.from_first(_temporary()))  # of the first process, which alone writes
    save.save(place / "model", model.checkpoint, params, dtype="float32")
    processes.in_first(lambda: _upload(place / "model", folder))


def _upload(there: Path, folder: Folder) -> None:
    # The configuration last: it says that the rest is there.
    for path in sorted(there.iterdir(), key=lambda path: path.name == "config.json"):
        (folder / path.name).write_bytes(path.read_bytes())


@functools.cache
def _local(name: str) -> str:
    """A local copy of what lies in an object store, one for each process; other names as they are."""
    if "://" not in name:
        return name
    source, place = folder_at(name), Path(_temporary())
    for path in source.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    return str(place)


def _temporary() -> str:
    place = tempfile.mkdtemp(prefix="gvgap_jax-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
