"""What the benchmark of sweeps measures and writes, with tiny settings; no time is asserted."""

import json

import polars as pl
import pytest

from experiments.benchmarks import fits, sweeps
from experiments.benchmarks.run_costs import RunCost
from experiments.benchmarks.throughput import Throughput, fits_of
from experiments.cli import main as command
from experiments.questions import questions
from gvgap_jax.sweep import Grid

TINY = sweeps.Bench(
    "equivalence", Grid({"horizon": (1,), "pairs": (16,)}, seeds=3),
    arms=("RLHF",), horizon=1, order=1, pairs=(16, 32), rows=(1, 4), devices=(2,),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the benchmark writes."""
    out = tmp_path_factory.mktemp("sweeps")
    sweeps.main(out, TINY)
    return out


@pytest.mark.slow
def test_throughput_of_every_chunk_size(folder):
    found = pl.read_csv(folder / "throughput.csv")
    assert set(Throughput._fields) | {"fits_per_second", "limit", "share"} == set(found.columns)
    assert found["rows"].to_list() == [1, 4]
    assert found["calls"].to_list() == [4, 1]
    assert (found["devices"] == 2).all()
    assert (found["fits"] == 4).all()
    assert (found["seconds"] > 0).all()
    assert (found["share"] > 0).all()
    assert (found["peak_bytes"] > 10 * found["bytes"]).all()
    assert set(found["limit"]) <= {"call overhead", "slowest fit", "processors"}


@pytest.mark.slow
def test_costs_of_a_run_with_a_cold_and_a_warm_cache(folder):
    found = pl.read_csv(folder / "run_costs.csv")
    assert set(RunCost._fields) | {"compile_share", "overhead_share"} == set(found.columns)
    assert found["cache"].to_list() == ["cold", "warm"]
    assert (found["cells"] == 3).all()
    assert (found["programs"] == 1).all()
    assert found["compile_share"].is_between(0, 1).all()
    assert (found["overhead_share"] > 0).all()
    assert (found["slowest_program_seconds"] <= found["compile_seconds"]).all()
    assert (found["peak_bytes"] < found["memory"]).all()
    programs = pl.read_csv(folder / "programs.csv")
    assert programs["rows_at_once"].to_list() == [4]
    assert programs["bytes"].is_between(1, programs["available"]).all()


@pytest.mark.slow
def test_the_machine_is_named(folder):
    assert json.loads((folder / "machine.json").read_text())["cores"] >= 1


def test_the_fits_are_those_of_one_verifier_and_gold_reward():
    for arm, order in (("DPO", 3), ("RLHF", 2)):
        batch = fits_of(arm, 3, 2, (16, 32), 5)
        assert batch.size == 5
        assert set(batch.columns["order"].tolist()) == {order}
        assert set(batch.columns["gold_order"].tolist()) == {2}
        assert batch.columns["seed"].tolist() == [0, 0, 1, 1, 2]


def test_the_highest_floor_is_the_limit():
    row = Throughput("DPO", "cpu", 2, 8, 16, 2, 1.0, 4.0, 0.1, 2.0, 3.0, 10, 100)
    assert (row.fits_per_second, row.limit, row.share) == (4.0, "processors", 0.75)


def test_device_counts_end_with_all_cores():
    assert [sweeps.powers_up_to(cores) for cores in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_the_command_chooses_the_benchmark(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(fits, "main", lambda *arguments: calls.append(("fits", *arguments)))
    monkeypatch.setattr(sweeps, "main", lambda *arguments: calls.append(("sweeps", *arguments)))
    command.main(["bench", "--out", str(tmp_path)])
    command.main(["bench", "sweeps", "--out", str(tmp_path), "--experiment", "equivalence", "--preset", "paper"])
    bench = sweeps.Bench("equivalence", questions()["equivalence"].PRESETS["paper"])
    assert calls == [("fits", tmp_path), ("sweeps", tmp_path / "sweeps", bench)]
    assert sweeps.default_experiment() in questions()
