"""The benchmark's peers solve the same problems as gvgap_jax, and its judge tells when they do not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from scipy.optimize import check_grad

from experiments.benchmarks import contest, fits, leaf_pass, problems, scipy_peer, solvers
from experiments.benchmarks.problems import Kind
from experiments.questions import sample_complexity
from gvgap_jax import TokenTree
from gvgap_jax.algorithms import Settings
from gvgap_jax.runtime.packages import is_installed
from gvgap_jax.types import Fit

TREE = TokenTree(vocabulary=3, horizon=2)
DPO, REWARD_MODEL = KINDS = Kind("DPO", 0), Kind("reward model", 1)
TINY = fits.Bench(
    horizon=2, kinds=(REWARD_MODEL,), pairs=(20,), padded=40, gold_orders=(1,), seeds=2, peer_seeds=2,
    adam_steps=20, adam_fits=2, adam_peer_fits=1, leaf_trees=(TREE,), settings=Settings(penalties=(30.0, 10.0)),
)  # fmt: skip
PEERS = ["gvgap_jax", "plain JAX", "SciPy"] + (["PyTorch"] if is_installed("torch") else [])


@pytest.fixture(scope="module")
def batch():
    return problems.batch(TREE, 40, TINY.cells())


@pytest.fixture(scope="module")
def data(batch):
    return problems.as_data(TREE, batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the benchmark writes, with tiny settings."""
    out = tmp_path_factory.mktemp("bench")
    fits.main(out, TINY)
    return out


@pytest.fixture(scope="module")
def rows(folder, batch, data):
    """Everything of the reward model and of equal steps; of DPO only the solvers that are code of their own."""
    entries = contest.penalty_path(TREE, DPO, TINY.settings, batch, data, TINY.peer_fits)
    entries = {name: solve for name, solve in entries.items() if "plain JAX" not in name}
    found = contest.run(TREE, DPO, data, entries, TINY.settings, lambda _: None)
    return pl.concat([pl.read_csv(folder / "fits.csv"), pl.DataFrame([row._asdict() for row in found])])


def test_the_pairs_are_those_of_the_sweep(data):
    """SciPy, given the benchmark's pairs, ends at the penalty and the held-out loss that the sweep records."""
    cell = {"pairs": 20, "gold_order": 1, "order": 1, "seed": 1, "beta": 1.0, "temperature": 1.0}
    cell = {name: np.asarray(value) for name, value in cell.items()} | {"reference_scale": np.zeros(())}
    swept = jax.jit(partial(sample_complexity.run, sample_complexity.Program("DPO", TREE, 40)))(cell)
    index = TINY.cells().index({"pairs": 20, "gold_order": 1, "seed": 1})
    solution = scipy_peer.solve(TREE, DPO, Settings(), data[index])
    held_out_loss = problems.objective(TREE, DPO, data[index]).held_out_loss(solution.params)
    assert solution.penalty == pytest.approx(float(swept["penalty"]))
    assert held_out_loss == pytest.approx(float(swept["held_out_loss"]), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_hand_derived_gradient_is_right(data, kind):
    objective = problems.objective(TREE, kind, data[0])
    params = np.random.default_rng(0).normal(size=objective.dimension)

    def part(index):
        return lambda vector: objective.value_and_gradient(vector, 0.7)[index]

    assert check_grad(part(0), part(1), params) < 1e-5 * np.linalg.norm(part(1)(params))


@pytest.mark.parametrize(
    ("peer", "kind"), [(peer, kind) for peer in PEERS for kind in KINDS if (peer, kind) != ("plain JAX", DPO)]
)
def test_every_solver_reaches_the_same_objective(rows, peer, kind):
    """Within 1e-6 nats a pair, at the same penalties, each from a gradient norm within the tolerance."""
    found = rows.filter(pl.col("solver").str.starts_with(peer), kind=kind.name)
    assert len(found) >= 1
    assert found["missed"].max() == 0
    assert 0 < found["gradient_norm"].max() <= 1.001
    assert (found["same_penalty"] == found["fits"]).all()
    assert found["objective_gap"].max() < 1e-6


def test_equal_steps_end_at_equal_objectives(rows):
    found = rows.filter(kind="DPO, 20 Adam steps")
    assert len(found) == 2 + is_installed("torch")
    assert found["objective_gap"].max() < 1e-5


def test_a_newcomer_compiles_for_every_number_of_pairs():
    cells = problems.batch(TREE, 40, [dict(pairs=pairs, gold_order=1, seed=0) for pairs in (20, 40, 40)])

    def fit(problem):
        mean = jnp.mean(problem.train.reference_margin)
        return Fit(mean, mean, mean, mean, mean, jnp.zeros((), int), jnp.array(True))

    assert solvers.one_by_one(fit, cells, padded=True).compilations == 1
    assert solvers.one_by_one(fit, cells, padded=False).compilations == 2


def test_the_judge_sees_a_fit_that_is_not_solved(data):
    objective = problems.objective(TREE, DPO, data[0])
    start = problems.Solution(np.zeros(objective.dimension), 1.0, True)
    assert problems.judge(TREE, DPO, TINY.settings, data[0], start).gradient_norm > 100


def test_a_longer_program_takes_longer():
    row, gradient = leaf_pass.measure(TREE)
    assert row.bytes == 8 * (3 + 9 + 9)
    assert gradient.bytes == 2 * row.bytes
    slow = leaf_pass.seconds_of(jax.jit(lambda x: jax.lax.fori_loop(0, 50000, lambda _, y: y * 0.5, x)), np.ones(8))
    assert slow > 10 * row.call


def test_the_tables_are_written_and_shown(folder, capsys):
    assert pl.read_csv(folder / "leaf_pass.csv")["program"].to_list() == ["leaf pass", "gradient"]
    assert (folder / "machine.json").exists()
    fits.report.show([], leaf_pass.measure(TREE), {"load_at_start": 0.0})
    assert "not measured" in capsys.readouterr().out


def test_without_torch_the_other_rows_remain(batch, data, monkeypatch):
    monkeypatch.setattr(contest, "is_installed", lambda name: False)
    entries = contest.penalty_path(TREE, DPO, TINY.settings, batch, data, TINY.peer_fits)
    assert len(entries) == 4
    assert not any(name.startswith("PyTorch") for name in entries)
