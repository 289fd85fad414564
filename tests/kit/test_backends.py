"""Experiments on transformers: the same questions and findings, other cells, folders and classes."""

from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from experiments.cli import main as command
from experiments.cli.arguments import backend_in, grid_of, options_of
from experiments.kit import backends
from experiments.kit.presets import default_folder
from experiments.questions import equivalence, questions, sample_complexity
from experiments.report import evidence, page
from gvgap_jax import TokenTree
from tests.report.toy_questions import install, toy

KEY = jax.random.key(0)
GUIDE = Path(__file__).parents[2] / "docs/guides/sweeps.md"


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        command.main(list(arguments))
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("backend", [backends.TREE, backends.TRANSFORMER], ids=lambda backend: backend.name)
def test_classes_stand_on_the_tree(backend):
    tree = TokenTree(2, 2, 1)
    reference = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=2))
    policy, verifier = backend.policy(tree, tree.conditionals(reference)), backend.verifier(tree)
    critic = backend.critic(tree)

    def everything():
        leaves = policy.leaf_log_probs(policy.init(KEY)), verifier.leaf_scores(verifier.init(KEY))
        return *leaves, critic.values(critic.init(KEY), *tree.rows())

    assert [array.shape for array in jax.eval_shape(everything)] == [(2, 4), (2, 4), (8, 2)]


def test_the_backend_decides_presets_and_folders():
    assert backend_in(["run", "sample_complexity", "--backend", "transformer"]) == "transformer"
    assert backend_in(["run", "sample_complexity", "--backend=transformer"]) == "transformer"
    assert backend_in(["run", "sample_complexity"]) == "tree"
    module = backends.on_transformer(sample_complexity)
    options = options_of("sample_complexity", module, "paper", "transformer")()
    assert options.backend == "transformer"
    paper = sample_complexity.TRANSFORMER_PRESETS["paper"]
    assert grid_of(options, paper).axes["pairs"] == paper.axes["pairs"]
    folder = default_folder("sample_complexity", "paper", backend="transformer")
    assert Path(folder).name == "sample_complexity-transformer-paper"


@pytest.mark.parametrize("name", list(questions()))
def test_an_experiment_runs_on_transformers_or_says_why_not_and_so_does_the_guide(name):
    module = questions()[name]
    reason = getattr(module, "NOT_ON_TRANSFORMERS", None)
    assert backends.has_transformer(module) == (reason is None)
    rows = [line for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{name}` |")]
    assert (f"| `{name}` | {reason} |" in rows) == (reason is not None)
    assert len(rows) == 1 + (reason is not None), "what decides, and why it does not run on transformers"
    assert reason is None or (reason.endswith(".") and reason.count(". ") == 0)


def test_an_experiment_without_transformers_is_refused_with_those_that_have_them(capsys, tmp_path):
    message = said(capsys, "run", "equivalence", "--backend", "transformer", "--out", str(tmp_path))
    assert f"equivalence does not run on the backend 'transformer': {equivalence.NOT_ON_TRANSFORMERS} These" in message
    assert "do: h1_information" in message
    assert "sample_complexity" in said(capsys, "figures", "equivalence", "--backend", "transformer")


def on_both(**changes):
    """The toy experiment, which also runs on a second backend, where squares are ten times as large."""

    def cells(config, backend=None):
        return toy().cells(config)

    def run(program, cell, backend=None):
        row = toy().run(program, cell)
        return row | {"value": row["value"] * (10 if backend else 1)}

    return toy(cells=cells, run=run, TRANSFORMER_PRESETS=toy().PRESETS, **changes)


def test_a_report_shows_both_side_by_side(tmp_path, monkeypatch, capsys):
    install(monkeypatch, {"toy": on_both(), "plain": toy()})
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


def test_rows_of_networks_are_told_apart():
    """Those on transformers, and of the questions that have no others."""
    of_networks = {name for name, module in questions().items() if backends.is_of_networks(module, "tree")}
    assert of_networks == {"same_backbone", "token_tasks"}
    assert backends.is_of_networks(backends.on_transformer(sample_complexity), "transformer")
