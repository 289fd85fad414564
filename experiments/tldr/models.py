"""Checkpoints as the recipe uses them: opened, laid over the devices, and stored again after a training."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.kit.presets import RESULTS
from experiments.tldr import keys, toy
from experiments.tldr.run import Run, tell_damage
from experiments.tldr.settings import TOY
from gvgap_jax.lm.data.tokenizer import Tokenizer, open_tokenizer
from gvgap_jax.lm.hf import load, save
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import files, processes, sealed
from gvgap_jax.runtime.files import Folder, folder_at, is_local, set_aside
from gvgap_jax.runtime.messages import reason
from gvgap_jax.types import Params

MADE_OF = "made_of.json"  # beside a stage's model: what it was made of, and the digests of its files


class Model(NamedTuple):
    """A checkpoint with the shape that it is run in, and its tokenizer.

    Attributes:
      key: a digest of all that decides its numbers.
    """

    checkpoint: load.Checkpoint
    shape: Shape
    tokenizer: Tokenizer
    key: str

    @property
    def end(self) -> tuple[int, ...]:
        """The tokens that end a response."""
        return self.tokenizer.ends


def opened(run: Run, name: str | Folder, revision: str | None = None, key: str | None = None) -> Model:
    """The checkpoint of that name or in that folder; its files' digests are its key where it has none of its own.

    Raises:
      ValueError: it cannot be read, or does not fit its own tokenizer.
    """
    local = _local(str(name))
    checkpoint = load.open_checkpoint(local, revision)
    tokenizer = open_tokenizer(checkpoint.folder)
    load.check_vocabulary(checkpoint.shape, tokenizer.needed)
    recipe = run.recipe
    shape = dataclasses.replace(checkpoint.shape, dtype=recipe.dtype, remat=recipe.remat)
    tokenizer = tokenizer.within(shape.vocabulary)
    return Model(checkpoint, shape, tokenizer, key or _key_of_files(local, checkpoint))


def _key_of_files(name: str, checkpoint: load.Checkpoint) -> str:
    """Of a local checkpoint's files; of the name and the commit, where it lies in the cache of the hub."""
    folder = checkpoint.folder
    if not Path(name).is_dir():
        return keys.digest([name, folder.name])
    found = {path for pattern in load.FILES for path in folder.glob(pattern) if path.is_file()}
    files = sorted(found | {tensor.file for tensor in checkpoint.tensors.values()})  # an index names them as it likes
    return keys.digest({path.name: sealed.digest(path) for path in files})


def base(run: Run, texts: Sequence[str]) -> Model:
    """The checkpoint that everything begins from; ``texts`` are all there are, for a toy model that must read them."""
    recipe = run.recipe
    if recipe.model != TOY:
        return opened(run, recipe.model, recipe.revision)
    if recipe.in_toy_world:
        return opened(run, toy_world(run) / "model")
    folder = _beside(run) / f"{TOY}-{keys.digest(sorted({*texts}))[:12]}"
    _written(folder, lambda: toy.write_own(folder, texts))
    return opened(run, folder / "model")


def other(run: Run, name: str, option: str, model: Model) -> Model:
    """A checkpoint that reads the same tokens as the policy does.

    Raises:
      ValueError: its tokenizer is another one, or as ``opened`` raises.
    """
    found = opened(run, name)
    vocabularies = [each.tokenizer.inner.get_vocab(with_added_tokens=True) for each in (found, model)]
    if vocabularies[0] != vocabularies[1] or found.end != model.end:
        raise ValueError(f"{option} {name} has another tokenizer than --model: choose one of the same family.")
    return found


def gold(run: Run, name: str) -> Model:
    """A reward model from elsewhere, whatever its tokenizer; ValueError if it is none, or as ``opened`` raises."""
    try:
        found = opened(run, name)
        load.check_scalar_head(found.checkpoint)
    except ValueError as error:
        raise ValueError(f"--gold_model: {error}") from error
    return found


def toy_world(run: Run) -> Path:
    """Where the toy world lies: beside the seeds, which share it."""
    folder = _beside(run) / TOY
    _written(folder, lambda: toy.write(folder))
    return folder


def _beside(run: Run) -> Path:
    return run.folder.parent if is_local(run.folder) else Path(RESULTS)


def _written(folder: Path, write: Callable[[], None]) -> None:
    """Written by all processes together, unless it is there and whole; earlier versions sealed none."""

    def is_there() -> bool:
        seal = folder / toy.SEAL
        return folder.exists() and (not seal.exists() or _is_whole(folder, seal))

    if not processes.agreed(processes.is_first() and is_there()):
        write()


def parameters(run: Run, model: Model, outputs: int | None = None) -> Params:
    """Its parameters, straight onto the run's devices; ``outputs`` is 1 for a reward model."""
    return load.load(model.checkpoint, model.shape, outputs, place=run.layout.place)


def trained(run: Run, stage: str) -> Model:
    """The model that a stage left.

    Raises:
      ValueError: the stage is not done.
    """
    folder = run.place(stage) / "model"
    if not is_done(run, stage):
        raise ValueError(f"{folder} is not there: run --stage {_made_by(stage)} first, or --stage all.")
    return opened(run, folder, key=run.made[stage].key)


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has left its model, as it was written; a damaged one is set aside."""
    model, place = run.place(stage) / "model", run.place(stage) / MADE_OF
    return processes.agreed(processes.is_first() and place.exists() and _is_whole(model, place))


def _is_whole(folder: Folder, place: Folder) -> bool:
    """Whether a folder is as it was sealed; a damaged one is set aside."""
    try:
        wrong = sealed.damage(folder, place)
    except (ValueError, OSError) as error:
        wrong = f"cannot be trusted: {reason(error)}"
    if wrong:
        tell_damage(folder, wrong, set_aside(folder) if is_local(folder) else folder)
        files.remove(place)
    return not wrong


def _made_by(stage: str) -> str:
    return {"reward_model": "rm", "judge": "rm", "rm_sft": "sft"}.get(stage, stage.split("_from_")[0])


def store(run: Run, stage: str, model: Model, params: Params) -> None:
    """Store what a stage made of a checkpoint, in float32: the next stage goes on from exactly these numbers."""
    folder, made = run.place(stage) / "model", run.made[stage]
    if is_local(folder):
        processes.in_first(lambda: shutil.rmtree(folder, ignore_errors=True))  # what a killed process left unsealed
        save.save(folder, model.checkpoint, params, dtype="float32")
    else:
        place = Path(processes.from_first(_temporary()))  # of the first process, which alone writes
        save.save(place / "model", model.checkpoint, params, dtype="float32")
        processes.in_first(lambda: _upload(place / "model", folder))
    # Last: it says that all the rest is there.
    note = made._asdict() | {"key": made.key}
    processes.in_first(lambda: sealed.seal(folder, run.place(stage) / MADE_OF, note))


def _upload(there: Path, folder: Folder) -> None:
    for path in there.iterdir():
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
