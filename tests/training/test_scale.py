"""One run over many devices and several processes is the run of one device; and it stops and goes on anywhere."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gvgap_jax.lm.model import shape, transformer
from gvgap_jax.runtime import processes
from gvgap_jax.runtime.processes import Processes
from gvgap_jax.training import layouts, loop, train
from tests.training import two_processes

ROOT = Path(__file__).parents[2]
COUNTED = (12, 13)  # rows: 6 batches of 8 are 4 passes over the former, and no whole number of them over the latter
LAYOUTS = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}


def launch(folder, *wanted, status=0):
    """Processes of tests/two_processes.py side by side, each with what it is to do."""
    files = [folder / f"process-{number}.json" for number in range(len(wanted))]
    for file, content in zip(files, wanted, strict=True):
        file.write_text(json.dumps(content))
    commands = [[sys.executable, "-m", "tests.training.two_processes", str(file)] for file in files]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert {process.returncode for process in running} == {status}, "\n".join(said)


def two(folder, *calls, devices=1):
    """Two processes that join and make the same calls."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        join = {"coordinator": "localhost", "coordinator_port": free.getsockname()[1], "processes": 2}
    launch(folder, *({"devices": devices, "join": join | {"process": n}, "calls": calls} for n in range(2)))


def load(folder, name):
    """Arrays by name, and what was said beside them."""
    found = dict(np.load(folder / f"{name}.npz"))
    return found, json.loads(found.pop("said").item())


def assert_close(found, wanted, parameters=1e-6):
    """Losses to 1e-5; Adam's steps are of one size, and make more of rounding where a gradient is next to nothing."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        near = 1e-6 if name in ("loss", "held_out_loss") else parameters
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=near, err_msg=name)


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A folder of what one process with eight devices found."""
    folder = tmp_path_factory.mktemp("eight")
    calls = [{"do": "gradients", "out": f"{folder}/{name}.npz", "layout": sizes} for name, sizes in LAYOUTS.items()]
    calls += [{"do": "gradients", "out": f"{folder}/one.npz"}]
    calls += [
        {"do": "memory", "out": f"{folder}/memory {name}.npz", "layout": LAYOUTS[name]} for name in ("data", "fsdp")
    ]
    calls += [{"do": "moved", "out": f"{folder}/moved.npz", "keep": f"{folder}/moved"}]
    calls += [
        called(folder, f"{rows} rows on {devices}", sizes, objective="counted", devices=devices, rows=rows)
        for rows in COUNTED
        for devices, sizes in {1: (1, 1, 1), 4: (2, 2, 1)}.items()
    ]
    launch(folder, {"devices": 8, "calls": calls})
    return folder


@pytest.mark.slow("layouts")
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_finds_the_losses_and_gradients_of_one_device(eight, name):
    """Of SFT, a reward model and DPO on transformers whose blocks are computed again in the backward pass."""
    found, said = load(eight, name)
    assert_close(found, load(eight, "one")[0])
    wanted = {  # of [3, 16, 4, 4], [3, 16, 2, 4], [3, 16, 42], [16, 16] and [16, 1]
        "data": ([3, 16, 4, 4], [3, 16, 2, 4], [3, 16, 42], [16, 16], [16, 1]),
        "fsdp": ([3, 2, 4, 4], [3, 2, 2, 4], [3, 2, 42], [16, 2], [2, 1]),
        "tensor": ([3, 16, 4, 4], [3, 16, 2, 4], [3, 16, 42], [2, 16], [16, 1]),
        "mixed": ([3, 8, 2, 4], [3, 8, 1, 4], [3, 8, 21], [8, 8], [8, 1]),
    }
    blocks = [f"sftblocks{leaf}kernel" for leaf in ("query", "key", "up")]
    ends = ["sftendsembeddingembedding", "reward_modelhead"]
    assert [said["pieces"][leaf] for leaf in (*blocks, *ends)] == list(wanted[name])


@pytest.mark.slow("layouts")
def test_no_device_holds_the_parameters_of_all_layers_at_once(eight):
    share = {
        name: found["needed"] / found["whole"]
        for name in ("data", "fsdp")
        for found in [load(eight, f"memory {name}")[0]]
    }
    assert share["fsdp"] < 0.5
    assert share["data"] > 1


@pytest.mark.slow("layouts")
def test_a_state_moves_between_numbers_of_devices(eight):
    found, said = load(eight, "moved")
    start = two_processes.started(two_processes.transformers)
    for name, leaf in two_processes.named(start).items():
        assert found[f"params{name}"].tobytes() == leaf.tobytes()
    assert said["pieces"]["paramssftblocksupkernel"] == [3, 4, 42]
    assert found["key"].tolist() == jax.random.key_data(jax.random.split(jax.random.key(3))[1]).tolist()


@pytest.mark.slow("layouts")
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("rows", COUNTED)
def test_every_row_is_drawn_once_a_pass_however_many_devices_share_them(eight, rows, devices):
    found = load(eight, f"{rows} rows on {devices}")[0]
    draws = np.stack([found[f"row {row}"] for row in range(rows)], axis=1)
    assert draws.sum() == two_processes.TRAINING.steps * two_processes.BATCH == 48
    assert np.ptp(np.cumsum(draws, axis=0), axis=1).max() == 1, "no row is ever two passes ahead of another"
    assert set(draws.sum(axis=0)) == ({4} if rows == 12 else {3, 4})
    one = load(eight, f"{rows} rows on 1")[0]
    np.testing.assert_array_equal(draws, np.stack([one[f"row {row}"] for row in range(rows)], axis=1))
    assert_close({"loss": found["loss"]}, {"loss": one["loss"]})


def called(folder, name, layout, **more):
    return {"do": "fit", "objective": "table", "out": f"{folder}/{name}.npz", "layout": layout, **more}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A folder of what two processes found, with and without a stop."""
    folder = tmp_path_factory.mktemp("pair")
    two(
        folder,
        {"do": "steps", "layout": (1, 2, 1), "keep": f"{folder}/differing"},
        called(folder, "transformer", (1, 2, 1), objective="transformer"),
        called(folder, "undisturbed", (1, 2, 1)),
        called(folder, "stopped", (1, 2, 1), keep=f"{folder}/kept", stop=1),
    )
    return folder


@pytest.mark.slow("processes")
def test_two_processes_are_one(pair):
    """A transformer over two processes, each with half of every array and of every batch."""
    launch(pair, {"devices": 2, "calls": [called(pair, "alone", (1, 1, 1), objective="transformer", devices=1)]})
    found, said = load(pair, "transformer")
    assert_close(found, load(pair, "alone")[0], parameters=1e-4)
    assert said["pieces"]["blocksupkernel"] == [3, 8, 64]
    assert said["finished"]


@pytest.mark.slow("processes")
def test_one_of_two_processes_is_terminated_and_both_go_on_later(pair):
    """SIGTERM after the first dispatch; then alone for a second one, in another layout, and together for the third."""
    assert load(pair, "stopped")[1] == {
        "finished": False,
        "status": ["stopped from outside after 2 of 6 steps"],
        "pieces": {"": [8, 16]},
    }
    shutil.copytree(pair / "kept", pair / "moved")
    one = called(pair, "one", (2, 1, 1), keep=f"{pair}/moved", stop=0)
    launch(pair, {"devices": 2, "calls": [one]})
    assert load(pair, "one")[1]["status"] == ["stopped from outside after 4 of 6 steps"]
    again, back = (
        called(pair, name, (1, 2, 1), keep=f"{pair}/{folder}")
        for name, folder in (("again", "kept"), ("back", "moved"))
    )
    two(pair, again, back)
    undisturbed, said = load(pair, "undisturbed")
    assert said["finished"]
    assert_same_bits(load(pair, "again")[0], undisturbed)
    assert_close(load(pair, "back")[0], undisturbed)


@pytest.mark.parametrize("layout", [None, (1, 2, 1)], ids=["one device", "two"])
def test_what_a_run_starts_from_is_used_up(layout):
    layout = layout and layouts.layout(*layout)
    wanted = np.random.default_rng(0).normal(size=(16, 16))
    start = 1.0 * jnp.asarray(wanted)  # a buffer that numpy does not share
    start = layout.put_parameters(start) if layout else start
    training = loop.Training(steps=1, evaluate_every=1, steps_a_dispatch=1, schedule="constant")
    found = train.fit(
        two_processes.table, two_processes.data(), training, jax.random.key(0), 0.001, start=start, layout=layout
    )
    assert start.is_deleted()
    np.testing.assert_allclose(found.fit.params, wanted, atol=0.0011)
    assert np.abs(found.fit.params - wanted).max() > 0.0005


def test_killed_while_a_checkpoint_is_written(tmp_path):
    """SIGKILL just before the second checkpoint gets its name: the first one is gone on with, to the same bits."""
    killed = called(tmp_path, "killed", (1, 2, 1), keep=f"{tmp_path}/kept", killed_at=4)
    launch(tmp_path, {"devices": 2, "calls": [killed]}, status=-signal.SIGKILL)
    stored = {path.name.partition(".")[0]: path.name for path in (tmp_path / "kept" / "checkpoints").iterdir()}
    assert stored["2"] == "2"
    assert stored["4"] != "4"
    again = called(tmp_path, "again", (1, 2, 1), keep=f"{tmp_path}/kept")
    launch(tmp_path, {"devices": 2, "calls": [again, called(tmp_path, "undisturbed", (1, 2, 1))]})
    assert_same_bits(load(tmp_path, "again")[0], load(tmp_path, "undisturbed")[0])


def test_a_stop_without_a_folder_and_a_stop_at_the_end():
    training = loop.Training(steps=4, evaluate_every=1, steps_a_dispatch=2)

    def fit(*answers):
        monitor = train.Monitor(stopped=iter(answers).__next__)
        return train.fit(two_processes.table, two_processes.data(), training, jax.random.key(0), 0.1, monitor=monitor)

    found = fit(True)
    assert (found.finished, found.fit.steps, found.status) == (False, 2, ("stopped from outside after 2 of 4 steps",))
    found = fit(False, True)
    assert (found.finished, found.status) == (True, ("finished after 4 steps",))


def test_data_lies_in_rows_where_it_divides():
    layout = layouts.layout(2)
    key = jax.random.key(4)
    placed = layout.put({"rows": np.arange(8).reshape(4, 2), "odd": np.ones(3), "one": 2.0, "key": key})
    assert [placed[name].sharding.spec for name in ("rows", "odd", "one")] == [
        PartitionSpec(("data", "fsdp")),
        PartitionSpec(),
        PartitionSpec(),
    ]
    assert placed["rows"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert jax.random.key_data(placed["key"]).tolist() == jax.random.key_data(key).tolist()
    assert layout.put(placed)["rows"] is placed["rows"]


def test_sizes_that_do_not_multiply_to_the_devices():
    assert layouts.layout(fsdp=-1).mesh.shape == {"data": 1, "fsdp": 2, "tensor": 1}
    for sizes in ((3, 1, 1), (-1, -1, 1), (-1, 4, 1), (0, -1, 1), (1, 1, 1)):
        with pytest.raises(ValueError, match="must multiply to 2, the number of devices"):
            layouts.layout(*sizes)


def test_the_axis_of_layers_and_biases_are_never_split():
    params = jax.eval_shape(lambda: transformer.init(shape.neox(8, layers=2), 8, jax.random.key(0)))
    specs = {
        name: sharding.spec for name, sharding in two_processes.named(layouts.layout(fsdp=2).place(params)).items()
    }
    assert specs["blocksdownkernel"] == PartitionSpec(None, None, "fsdp")
    assert specs["blocksupbias"] == specs["blocksnorm_feedscale"] == PartitionSpec()
    assert specs["head"] == PartitionSpec("fsdp")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "here"}, "go together"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "go together"),
        ({"process": 1}, "go together"),
        ({"coordinator_port": 70_000}, "1 to 65535, got 70000"),
        ({"coordinator": "here", "coordinator_port": 1, "processes": 2, "process": 2}, "0 to 1, got 2"),
    ],
)
def test_processes_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        Processes(**given)


def test_one_process_waits_for_nobody(monkeypatch):
    processes.join(Processes())
    processes.join(Processes("here", 1, processes=1, process=0))
    processes.barrier("alone")
    assert processes.is_first()
    assert processes.agreed(True)
    assert processes.from_first("word") == "word"
    with pytest.raises(ZeroDivisionError):
        processes.in_first(lambda: 1 / 0)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(ValueError, match="jax is in use already"):
        processes.join(Processes())


JOIN = """
from gvgap_jax.runtime.processes import Processes, join
try:
    join(Processes("localhost", {port}, 2, {process}), time_out=1)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("process", "words"), [(0, "may have it; choose another coordinator_port"), (1, "nobody listens at localhost")]
)
def test_a_coordinator_that_cannot_be(process, words):
    with socket.socket() as taken:
        taken.bind(("", 0))
        if process == 0:
            taken.listen()
        source = JOIN.format(port=taken.getsockname()[1], process=process)
        found = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert words in found.stdout
