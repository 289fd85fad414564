"""Experiments on transformers: the same questions and findings, other cells, folders and classes."""

import functools
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.cli import main as command
from experiments.cli.arguments import backend_in, default_folder, grid_of, options_of
from experiments.kit import backends
from experiments.questions import questions, sample_complexity
from experiments.report import evidence, page
from gvgap_jax import TokenTree, policies, verifiers
from gvgap_jax.sweep import Grid, load, make_plan
from tests.questions.tiny import TINY_TRANSFORMER
from tests.report.toy_questions import install, toy

THERE = [name for name, module in questions().items() if backends.has_transformer(module)]
ALL_NETWORKS = ("h1_information", "h3_optimisation", "h5_generalisation", "h6a_model_sizes")  # in their usual arms
KEY = jax.random.key(0)
SMALL = backends.TRANSFORMER._replace(
    policy=lambda tree, base: policies.mlp_policy(tree, 4, base),
    verifier=lambda tree: verifiers.mlp_verifier(tree, 4),
    critic=policies.tabular_critic,
)


def said(capsys, *command):
    with pytest.raises(SystemExit) as stopped:
        command.main(list(command))
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def made_up(run):
    """A ``run`` of the same columns with made-up numbers: what there is to compile is traced, and no more."""

    def fake(program, cell):
        columns = jax.eval_shape(functools.partial(run, program), cell)
        noise = jax.random.uniform(jax.random.fold_in(KEY, cell["seed"]), (len(columns),))
        return {
            name: jnp.array(True) if column.dtype == bool else 1 + noise[number]
            for number, (name, column) in enumerate(columns.items())
        }

    return fake


@pytest.mark.parametrize("name", THERE)
def test_what_transformers_record_gives_findings_and_figures(name, tmp_path, monkeypatch):
    if name != "h6c_verifier_order":  # one traces transformers, the others networks that are traced faster
        monkeypatch.setattr(backends, "TRANSFORMER", SMALL)
    module = backends.on_transformer(questions()[name])
    monkeypatch.setattr(module, "run", made_up(module.run))
    monkeypatch.setattr(backends, "on_transformer", lambda _: module)
    folder = tmp_path / name
    command.main(["run", name, "--backend", "transformer", "--out", str(folder), *TINY_TRANSFORMER[name]])
    tables = {path.name.rpartition("-")[0] for path in folder.glob("*.parquet")}
    found = module.findings({table: load(folder, table) for table in tables})
    assert any(finding.control for finding in found)
    assert name in ALL_NETWORKS or any("own backbone" in row.claim or "same backbone" in row.claim for row in found)
    paths = command.draw(name, folder, tmp_path, "transformer")
    assert all("transformer" in path.name for path in paths)
    assert {path.suffix for path in paths} >= {".png", ".pdf"}


@pytest.mark.parametrize("name", THERE)
def test_a_transformer_has_a_plan_of_its_own_and_the_tree_keeps_its_own(name):
    module = questions()[name]
    grid = module.TRANSFORMER_PRESETS["quick"]
    trees = make_plan(name, module, grid if module.Config is backends.on_transformer(module).Config else Grid())
    plan = make_plan(backends.named(name, "transformer"), backends.on_transformer(module), grid)
    assert not {chunk.name for chunk in plan.chunks} & {chunk.name for chunk in trees.chunks}
    assert plan.run == backends.on_transformer(module).run, "compiled programs are kept by it"
    assert pickle.loads(pickle.dumps(plan)).run == plan.run
    assert trees.run is module.run
    assert tuple(module.TRANSFORMER_PRESETS) == tuple(module.PRESETS)
    assert all(preset.seeds >= 8 for preset in module.TRANSFORMER_PRESETS.values())


def test_chunks_of_the_tree_keep_their_names():
    """Records that exist are those of the present code: the first chunk that the first version of the command made."""
    plan = make_plan("sample_complexity", sample_complexity, sample_complexity.PRESETS["quick"])
    assert plan.chunks[0].name == "fits-c83548059c54c3d6"


@pytest.mark.parametrize("backend", [backends.TREE, backends.TRANSFORMER], ids=lambda backend: backend.name)
def test_classes_stand_on_the_tree(backend):
    tree = TokenTree(2, 2, 1)
    reference = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=2))
    policy, verifier = backend.policy(tree, tree.conditionals(reference)), backend.verifier(tree)
    critic = backend.critic(tree)

    def everything():
        leaves = policy.leaf_log_probs(policy.init(KEY)), verifier.leaf_scores(verifier.init(KEY))
        return *leaves, critic.values(critic.init(KEY), *tree.rows())

    assert [found.shape for found in jax.eval_shape(everything)] == [(2, 4), (2, 4), (8, 2)]


def test_the_backend_decides_presets_and_folders():
    assert backend_in(["run", "sample_complexity", "--backend", "transformer"]) == "transformer"
    assert backend_in(["run", "sample_complexity", "--backend=transformer"]) == "transformer"
    assert backend_in(["run", "sample_complexity"]) == "tree"
    module = backends.on_transformer(sample_complexity)
    options = options_of("sample_complexity", module, "paper", "transformer")()
    assert options.backend == "transformer"
    assert grid_of(options).axes["pairs"] == sample_complexity.TRANSFORMER_PRESETS["paper"].axes["pairs"]
    folder = default_folder("sample_complexity", "paper", backend="transformer")
    assert Path(folder).name == "sample_complexity-transformer-paper"


def test_an_experiment_without_transformers_is_refused_with_those_that_have_them(capsys, tmp_path):
    message = said(capsys, "run", "equivalence", "--backend", "transformer", "--out", str(tmp_path))
    assert "equivalence does not run on the backend 'transformer'; these do: main_table" in message
    assert "sample_complexity" in said(capsys, "figures", "equivalence", "--backend", "transformer")


def with_twin(**changes):
    """The toy experiment, which also runs on a second backend, where squares are ten times as large."""

    def cells(config, backend=None):
        return toy().cells(config)

    def run(program, cell, backend=None):
        found = toy().run(program, cell)
        return found | {"value": found["value"] * (10 if backend else 1)}

    return toy(cells=cells, run=run, TRANSFORMER_PRESETS=toy().PRESETS, **changes)


def test_a_report_shows_both_side_by_side(tmp_path, monkeypatch, capsys):
    install(monkeypatch, {"toy": with_twin(), "plain": toy()})
    for backend in ("tree", "transformer"):
        command.main(["run", "all", "--backend", backend, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"toy-quick", "plain-quick", "toy-transformer-quick"}
    gathered = [
        evidence.gather("toy", module, str(tmp_path), "quick", backend)
        for backend in ("transformer", "tree")
        for module in [backends.on_backend(questions(), backend)["toy"]]
    ]
    (section,) = page.sections(gathered)
    first = section.claims[0]
    assert first.transformer.interval.estimate == pytest.approx(10 * first.tree.interval.estimate)
    assert "--backend transformer" in section.transformer.command
    command.main(["report", "--records", str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert "3 of 3 experiments complete" in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "report.html").read_text()
    assert text.count("<figure ") == 3
    assert text.count(">on the tree</th>") == 2


def test_claims_of_one_side_alone_keep_their_row():
    one, both, two = (toy().findings({"even": pl.DataFrame({"base": [0.5, 0.5], "value": [1.0, 2.0]})})[0]._replace(
        claim=claim) for claim in ("one", "both", "two"))  # fmt: skip
    rows = page.side_by_side([one, both], [two, both])
    assert [(row.claim, row.tree is None, row.transformer is None) for row in rows] == [
        ("one", False, True),
        ("both", False, False),
        ("two", True, False),
    ]
