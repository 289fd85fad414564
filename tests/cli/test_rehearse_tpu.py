"""What makes a rehearsal for a TPU fail: a lower precision, a program that does not compile, and too little memory."""

import jax.numpy as jnp
import pytest

from experiments.cli import rehearse
from gvgap_jax.runtime import chips
from gvgap_jax.sweep import compute
from tests.cli.test_commands import printed_by
from tests.report.toy_questions import install, toy
from tests.sweep import toy_experiment

pytest.importorskip("libtpu")
COMMAND = ["rehearse", "powers", "--slice", "v5e-4", "--first", "1"]


def run(program, cell):
    """As the toy experiment, and a matrix product that no constant decides."""
    product = jnp.full((8, 16), cell["base"], jnp.float32) @ jnp.full((16, 8), cell["base"] + 1, jnp.float32)
    return toy_experiment.run(program, cell) | {"value": jnp.tanh(product).sum()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearse.console, "_width", 300)
    install(monkeypatch, {"powers": toy(run=run)})


def test_a_sweep_that_is_as_it_should_be(capsys):
    printed = printed_by(capsys, *COMMAND)
    assert "powers-quick on v5e-4: 4 x TPU v5e" in printed
    assert "float32" in printed


def test_a_product_of_the_default_precision(capsys, monkeypatch):
    monkeypatch.setattr(compute, "PRECISION", "default")
    printed = printed_by(capsys, *COMMAND, status=1)
    assert "powers: power 1 has a matrix product in bfloat16, and its room allows float32" in printed


def test_a_program_that_no_tpu_has(capsys, monkeypatch):
    def odd(program, cell):
        values, _ = jnp.linalg.eig(jnp.full((3, 3), cell["base"], jnp.float32))
        return {"value": jnp.abs(values).sum()}

    install(monkeypatch, {"powers": toy(run=odd)})
    printed = printed_by(capsys, *COMMAND, status=1)
    assert "powers: power 1 cannot be traced: NotImplementedError" in printed


def test_a_chip_without_room(capsys, monkeypatch):
    small = [chip._replace(memory_bytes=1000) if chip.name == "TPU v5e" else chip for chip in chips.CHIPS]
    monkeypatch.setattr(chips, "CHIPS", small)
    assert "and a program can count on 0 MiB of a TPU v5e" in printed_by(capsys, *COMMAND, status=1)
