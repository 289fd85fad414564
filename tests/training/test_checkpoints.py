"""Stopped and gone on with is the same as never stopped, to the bit; and what belongs to another run is refused."""

import dataclasses
import shutil
import sys
import warnings
from functools import partial
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import polars as pl
import pytest

from gvgap_jax.runtime import sealed
from gvgap_jax.training import checkpoints, curves, layouts, objectives, train
from gvgap_jax.training.loop import Training
from gvgap_jax.types import Demonstrations, Policy

TRAINING = Training(steps=12, evaluate_every=2, steps_a_dispatch=4, warm_up=2)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def demonstrations():
    tokens = jax.random.randint(jax.random.key(0), (40, 1), 0, 4)
    return Demonstrations(tokens, (tokens + 1) % 4, jnp.ones(40))


def build(demonstrations):
    """A table of one token after another, by SFT; half of the demonstrations are held out."""

    def log_prob(params, prompts, responses):
        return jax.nn.log_softmax(params)[prompts[:, 0], responses[:, 0]]

    def init(key):
        return jax.random.normal(key, (4, 4))

    policy = Policy(init, log_prob, token_log_probs=None, sample=None, num_parameters=16)
    train_rows, held_out = (jax.tree.map(lambda rows, part=part: rows[part::2], demonstrations) for part in (0, 1))
    return objectives.sft(policy, train_rows, held_out, batch=8)


class KilledError(Exception):
    pass


def dies_at(number, save):
    """``save``, in a process that dies the so-manieth time, before anything is written."""
    calls = []

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            raise KilledError
        return save(*arguments, **options)

    return dying


def stored(folder, step=12):
    """All arrays of a checkpoint, and its configuration."""
    items = {"state": ocp.args.PyTreeRestore(), "configuration": ocp.args.JsonRestore()}
    with ocp.CheckpointManager(folder / checkpoints.CHECKPOINTS) as manager, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shardings read from the file, which is what is wanted here
        return manager.restore(step, args=ocp.args.Composite(**items))


def run(demonstrations, folder=None, **changed):
    settings = {"learning_rate": 0.1, "training": TRAINING, "key": KEY} | changed
    keep = folder and train.Keep(folder, {"task": "successors"})
    return train.fit(build, demonstrations, keep=keep, **settings)


@pytest.fixture(scope="module")
def kept(demonstrations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return folder, run(demonstrations, folder)


def assert_same_bits(found, wanted):
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def assert_same_run(found, folder, wanted, wanted_folder):
    assert_same_bits(found.fit, wanted.fit)
    assert found.curves.equals(wanted.curves)
    assert pl.concat(curves.load_curves(folder)).equals(pl.concat(curves.load_curves(wanted_folder)))
    assert_same_bits(stored(folder)["state"], stored(wanted_folder)["state"])


@pytest.mark.parametrize(
    ("place", "survives"),
    [((train, "save_curves"), 4), ((checkpoints.Checkpoints, "save"), 4)],
    ids=["curves", "state"],
)
def test_killed_and_resumed_is_uninterrupted(demonstrations, kept, tmp_path, monkeypatch, place, survives):
    """Killed in the second dispatch of three: before its curves are written, or between them and its checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(*place, dies_at(2, getattr(*place)))
        with pytest.raises(KilledError):
            run(demonstrations, tmp_path)
    assert stored(tmp_path, survives)["state"]["step"] == survives
    assert_same_run(run(demonstrations, tmp_path), tmp_path, kept[1], kept[0])


def test_a_finished_run_is_found(demonstrations, kept, monkeypatch):
    monkeypatch.setattr(train.loop, "advance", None)
    again = run(demonstrations, kept[0])
    assert_same_bits(again.fit, kept[1].fit)
    assert again.curves.equals(kept[1].curves)


def test_storing_changes_nothing(demonstrations, kept):
    bare = run(demonstrations)
    assert_same_bits(bare.fit, kept[1].fit)
    assert bare.curves.equals(kept[1].curves)
    assert sorted(path.name for path in (kept[0] / checkpoints.CHECKPOINTS).iterdir()) == ["12", "8"]


def many(demonstrations, folder, **options):
    keys, rates = jax.random.split(KEY, 3), [0.1, 0.2, 0.3]
    return train.fit_many(build, demonstrations, TRAINING, keys, rates, keep=train.Keep(folder), **options)


def test_many_runs_stop_together_and_go_on(demonstrations, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    stopped = many(demonstrations, part, monitor=train.Monitor(stopped=iter([False, True]).__next__))
    assert not stopped.finished
    assert stopped.status == 3 * ("stopped from outside after 8 of 12 steps",)
    again = many(demonstrations, part)
    assert again.finished
    assert_same_run(again, part / "runs-0-2", many(demonstrations, whole), whole / "runs-0-2")


def test_many_runs_and_split_parameters_resume(demonstrations, tmp_path, monkeypatch):
    def spread(demonstrations, folder):
        return run(demonstrations, folder, layout=layouts.layout(fsdp=-1))

    for name, begin, below in (("many", many, "runs-0-2"), ("spread", spread, "")):
        begin = partial(begin, demonstrations)
        whole, part = tmp_path / f"{name}-whole", tmp_path / f"{name}-part"
        wanted = begin(whole)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.Checkpoints, "save", dies_at(3, checkpoints.Checkpoints.save))
            with pytest.raises(KilledError):
                begin(part)
        found = begin(part)
        assert_same_run(found, part / below, wanted, whole / below)
    assert len(found.fit.params.addressable_shards[0].data) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": dataclasses.replace(TRAINING, warm_up=3)}, "training warm_up 2 there, 3 now"),
        ({"learning_rate": 0.2}, "learning_rate 0.1 there, 0.2 now"),
        ({"key": jax.random.key(6)}, "key .* there, .* now"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(demonstrations, kept, change, words):
    with pytest.raises(ValueError, match=f"another configuration \\({words}\\). Choose another folder"):
        run(demonstrations, kept[0], **change)


def test_other_data_are_refused(demonstrations, kept):
    with pytest.raises(ValueError, match=r"another configuration \(data \w+ there"):
        run(demonstrations._replace(weight=2 * demonstrations.weight), kept[0])


def test_a_folder_is_for_one_process(demonstrations, kept):
    with (
        checkpoints.opened(kept[0], {}, every=1),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        run(demonstrations, kept[0])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


def numbers_of(step):
    """Of all files that say what a checkpoint is, the largest."""
    return max((path for path in (step / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES = {
    "flipped": lambda folder: flip(numbers_of(folder / "checkpoints" / "12")),
    "truncated": lambda folder: truncate(numbers_of(folder / "checkpoints" / "12")),
    "empty": lambda folder: numbers_of(folder / "checkpoints" / "12").write_bytes(b""),
    "missing": lambda folder: numbers_of(folder / "checkpoints" / "12").unlink(),
    "a folder in its place": lambda folder: replace_by_a_folder(numbers_of(folder / "checkpoints" / "12")),
    "configuration": lambda folder: flip(folder / "checkpoints" / "12" / "configuration" / "metadata"),
    "its digests": lambda folder: flip(folder / checkpoints.SEALS / "12.json"),
    "the one before, too": lambda folder: [flip(numbers_of(folder / "checkpoints" / each)) for each in ("8", "12")],
    "curves": lambda folder: flip(folder / "curves-000000012.parquet"),
    "first curves": lambda folder: truncate(folder / "curves-000000004.parquet"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_goes_on(demonstrations, kept, tmp_path, damage):
    folder = shutil.copytree(kept[0], tmp_path / "run")
    DAMAGES[damage](folder)
    with pytest.warns(UserWarning, match=r"set aside"):
        again = run(demonstrations, folder)
    assert list(folder.rglob("set_aside"))
    assert_same_run(again, folder, kept[1], kept[0])


def test_every_byte_of_a_checkpoint_is_watched(kept, tmp_path):
    folder = shutil.copytree(kept[0], tmp_path / "run")
    step, seal = folder / checkpoints.CHECKPOINTS / "12", folder / checkpoints.SEALS / "12.json"
    paths = [path for path in step.rglob("*") if path.is_file() and path.name not in checkpoints.REWRITTEN]
    assert len(paths) > 10
    assert not sealed.damage(step, seal)
    for path in paths:
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) - 1}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert path.relative_to(step).as_posix() in sealed.damage(step, seal)
        path.write_bytes(whole)
    assert not sealed.damage(step, seal)


@pytest.mark.parametrize("name", checkpoints.REWRITTEN)
@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_what_orbax_notes_for_itself_decides_nothing(demonstrations, kept, tmp_path, name, damage):
    folder = shutil.copytree(kept[0], tmp_path / "run")
    damage(folder / "checkpoints" / "12" / name)
    assert_same_bits(run(demonstrations, folder).fit, kept[1].fit)


def test_only_the_checkpoints_that_are_there_have_digests(kept):
    names = {path.stem for path in (kept[0] / checkpoints.SEALS).glob("*.json")}
    assert {"8", "12"} <= names <= {"4", "8", "12"}, "that of the last one that was removed may still be there"


def test_a_checkpoint_of_an_earlier_version_is_read_with_a_warning(demonstrations, kept, tmp_path):
    folder = shutil.copytree(kept[0], tmp_path / "run")
    shutil.rmtree(folder / checkpoints.SEALS)
    with pytest.warns(UserWarning, match=r"12 has no digests"):
        assert_same_bits(run(demonstrations, folder).fit, kept[1].fit)


def test_tensorboard_gets_every_number_after_the_checkpoint(kept, monkeypatch):
    writer = MagicMock()
    monkeypatch.setitem(sys.modules, "tensorboardX", MagicMock(SummaryWriter=writer))
    with curves.tensorboard("place")(4) as write:
        write(kept[1].curves[4:])
    writer.assert_called_once_with("place", purge_step=5)  # what was written beyond the checkpoint is dropped
    calls = writer.return_value.__enter__.return_value.add_scalar.call_args_list
    losses = {call.args[2]: call.args[1] for call in calls if call.args[0] == "loss"}
    assert list(losses.items()) == kept[1].curves[4:].select("step", "loss").rows()
    assert [call.args[2] for call in calls if call.args[0] == "held_out_loss"] == [6, 8, 10, 12]


def test_wandb_gets_every_number(kept, monkeypatch):
    package = MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", package)
    with curves.wandb(project="gap", id="one")(0) as write:
        write(kept[1].curves[:1])
    package.init.assert_called_once_with(resume="allow", project="gap", id="one")
    call = package.init.return_value.__enter__.return_value.log.call_args
    assert call.kwargs == {"step": 1}
    assert call.args[0]["loss"] == kept[1].curves["loss"][0]


def test_scalars_are_named_by_run_where_there_are_several():
    rows = pl.DataFrame(
        {"run": [0, 0, 1], "step": [1, 2, 1], "loss": [0.5, 0.25, 2.0], "held_out_loss": [None, 1.0, None]}
    )
    assert list(curves._scalars(rows)) == [
        (1, {"loss/0": 0.5, "loss/1": 2.0}),
        (2, {"loss/0": 0.25, "held_out_loss/0": 1.0}),
    ]


@pytest.mark.parametrize(
    ("writer", "package"), [(lambda: curves.tensorboard("x"), "tensorboardX"), (curves.wandb, "wandb")]
)
def test_a_missing_package_is_named(monkeypatch, writer, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package} is not installed; .*gvgap_jax\[{package[:11]}\]"):
        writer()
