"""One run over many devices and several processes is the run of one device; and it stops and goes on anywhere."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from gvgap_jax.lm import layouts, loop, processes, shape, train, transformer
from gvgap_jax.lm.processes import Processes
from tests import two_processes

ROOT = Path(__file__).parent.parent
LAYOUTS = {"fsdp": (1, 8, 1), "tensor": (1, 1, 8), "mixed": (2, 2, 2)}


def launch(folder, *wanted):
    """Processes of tests/two_processes.py side by side, each with what it is to do."""
    files = [folder / f"process-{number}.json" for number in range(len(wanted))]
    for file, content in zip(files, wanted, strict=True):
        file.write_text(json.dumps(content))
    commands = [[sys.executable, "-m", "tests.two_processes", str(file)] for file in files]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in commands
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(said)


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


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A folder of what one process with eight devices found."""
    folder = tmp_path_factory.mktemp("eight")
    calls = [{"do": "gradients", "out": f"{folder}/{name}.npz", "layout": sizes} for name, sizes in LAYOUTS.items()]
    calls += [{"do": "gradients", "out": f"{folder}/one.npz"}]
    calls += [{"do": "moved", "out": f"{folder}/moved.npz", "keep": f"{folder}/moved"}]
    launch(folder, {"devices": 8, "calls": calls})
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_finds_the_losses_and_gradients_of_one_device(eight, name):
    """Of SFT, a reward model and DPO on transformers whose blocks are computed again in the backward pass."""
    found, said = load(eight, name)
    assert_close(found, load(eight, "one")[0])
    wanted = {  # of [3, 16, 4, 4], [3, 16, 2, 4], [3, 16, 42], [16, 16] and [16, 1]
        "fsdp": ([3, 2, 4, 4], [3, 2, 2, 4], [3, 2, 42], [16, 2], [2, 1]),
        "tensor": ([3, 16, 4, 4], [3, 16, 2, 4], [3, 16, 42], [2, 16], [16, 1]),
        "mixed": ([3, 8, 2, 4], [3, 8, 1, 4], [3, 8, 21], [8, 8], [8, 1]),
    }
    blocks = [f"sftblocks{leaf}kernel" for leaf in ("query", "key", "up")]
    ends = ["sftendsembeddingembedding", "reward_modelhead"]
    assert [said["pieces"][leaf] for leaf in (*blocks, *ends)] == list(wanted[name])


def test_a_state_moves_between_numbers_of_devices(eight):
    found, said = load(eight, "moved")
    start = two_processes.started(two_processes.transformers)
    for name, leaf in two_processes.named(start).items():
        assert found[f"params{name}"].tobytes() == leaf.tobytes()
    assert said["pieces"]["paramssftblocksupkernel"] == [3, 4, 42]
    assert found["key"].tolist() == jax.random.key_data(jax.random.split(jax.random.key(3))[1]).tolist()


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


def test_two_processes_are_one(pair):
    """A transformer over two processes, each with half of every array and of every batch."""
    launch(pair, {"devices": 2, "calls": [called(pair, "alone", (1, 1, 1), objective="transformer", devices=1)]})
    found, said = load(pair, "transformer")
    assert_close(found, load(pair, "alone")[0])
    assert said["pieces"]["blocksupkernel"] == [3, 8, 64]
    assert said["finished"]


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
