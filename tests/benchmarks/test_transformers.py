"""The transformer benchmark: its peers compute what we compute, its floors are counted right, its tables say it."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from experiments.benchmarks import language_models, lm_contest, lm_limits, lm_seeds, lm_work
from experiments.benchmarks.lm_limits import Machine
from experiments.benchmarks.lm_seeds import SeedRow
from experiments.benchmarks.lm_work import LOADS, Size
from gvgap_jax.lm.model import classes, shape, transformer
from gvgap_jax.types import PADDING
from tests.lm.test_transformer import scrambled

V = 7
KINDS = {
    "neox": shape.neox(V, width=16, start=False, dtype="float64"),
    "llama, grouped": shape.llama(V, width=16, heads=4, key_value_heads=2, start=False, dtype="float64"),
    "qwen 2, tied": shape.llama(V, width=16, bias="query_key_value", tied=True, start=False, dtype="float64"),
}
ACCURACY = 2e-5  # the peers' rotations and RMS norms, and our attention's softmax, are float32 whatever the dtype
TOKENS = np.random.default_rng(0).integers(0, V, (4, 9))
SIZE = Size(KINDS["neox"], prompt_length=3, horizon=4, batch=4, steps=3)
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def peers():
    """The modules that need the extra ``bench``; importing them warns of the future of other packages."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from experiments.benchmarks import hugging_face, torch_lm

    return hugging_face, torch_lm


@functools.cache
def params_of(kind, outputs):
    return scrambled(transformer.init(KINDS[kind], outputs, jax.random.key(0)))


@every_kind
def test_a_copy_gives_the_same_logits(peers, kind):
    import torch

    policy, params = classes.transformer_policy(KINDS[kind], 6), params_of(kind, V)
    ours = jax.jit(policy.log_prob)(params, jnp.asarray(TOKENS[:, :3]), jnp.asarray(TOKENS[:, 3:]))
    copy = peers[0].language_model(KINDS[kind], params, 9)
    theirs = peers[1].log_probs(copy, torch.tensor(TOKENS), 6).detach().numpy()
    np.testing.assert_allclose(theirs, ours, atol=ACCURACY)
    other = peers[0].language_model(KINDS[kind], jax.tree.map(lambda leaf: 1.01 * leaf, params), 9)
    assert np.abs(peers[1].log_probs(other, torch.tensor(TOKENS), 6).detach().numpy() - ours).max() > 100 * ACCURACY


@every_kind
def test_a_copy_gives_the_same_rewards(peers, kind):
    import torch

    verifier, params = classes.transformer_verifier(KINDS[kind]), params_of(kind, 1)
    ours = jax.jit(verifier.score)(params, jnp.asarray(TOKENS[:, :3]), jnp.asarray(TOKENS[:, 3:]))
    theirs = peers[0].reward_model(KINDS[kind], params, 9)(torch.tensor(TOKENS)).logits[:, 0]
    np.testing.assert_allclose(theirs.detach().numpy(), ours, atol=ACCURACY)


def test_padding_on_the_left_is_what_an_attention_mask_makes_of_it(peers):
    import torch

    there = np.arange(9) >= np.array([0, 1, 2, 3])[:, None]
    states, _ = transformer.forward(KINDS["neox"], params_of("neox", V), jnp.asarray(np.where(there, TOKENS, PADDING)))
    ours = transformer.read(KINDS["neox"], params_of("neox", V), states)
    copy = peers[0].language_model(KINDS["neox"], params_of("neox", V), 9)
    theirs = copy(input_ids=torch.tensor(TOKENS), attention_mask=torch.tensor(there, dtype=torch.long)).logits
    np.testing.assert_allclose(theirs.detach().numpy()[there], np.asarray(ours)[there], atol=ACCURACY)


def test_greedy_responses_are_those_of_generate(peers):
    given = lm_work.given(SIZE)
    ours = lm_work.decoder(SIZE, given, greedy=True).run()
    assert (peers[1].decoder(SIZE, given, greedy=True).run() == ours).all()
    assert len(np.unique(ours)) > 1


@pytest.mark.parametrize("load", LOADS)
def test_pytorch_follows_our_losses(peers, load):
    given = lm_work.given(SIZE)
    ours = lm_work.trainer(load, SIZE, given).run()
    theirs = peers[1].trainer(load, SIZE, given, lm_work.batches(load, SIZE, given)).run()
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert len(np.unique(ours)) == SIZE.steps


def test_other_kinds_and_a_start_token_have_no_copy(peers):
    with pytest.raises(ValueError, match="start=False"):
        peers[0].language_model(shape.neox(V), {}, 9)
    with pytest.raises(ValueError, match="no family here has models of this shape"):
        peers[0].language_model(shape.neox(V, start=False, gated=True), {}, 9)


def test_a_peer_that_computes_something_else_is_refused():
    ours = np.array([1.0, 0.9])
    lm_contest._check("a peer", ours * (1 + 1e-6), ours)
    with pytest.raises(ArithmeticError, match=r"a peer does not compute .* 1\.0e-03 at the first step"):
        lm_contest._check("a peer", ours * 1.001, ours)


def test_operations_are_those_that_the_compiler_counts():
    """Of one layer: the compiler counts a loop over layers once. It counts norms and softmaxes too."""
    one = replace(KINDS["neox"], layers=1, width=256, heads=4, key_value_heads=4, head_width=64, hidden=1024)
    size = Size(one, prompt_length=2, horizon=30, batch=2, steps=1)
    tokens = jnp.zeros((2, 32), int)

    def logits(params):
        states, _ = transformer.forward(one, params, tokens)
        return transformer.read(one, params, states[:, 2:])

    params = jax.eval_shape(lambda: transformer.init(one, V, jax.random.key(0)))
    counted = jax.jit(logits).lower(params).compile().cost_analysis()["flops"]
    assert lm_limits.training_step("SFT", size).operations / 3 == pytest.approx(counted, rel=0.1)
    assert lm_limits.training_step("DPO", size).operations == 2 * lm_limits.training_step("SFT", size).operations


def attention_in_float64(query, key, value, mask, scale):
    """What ``jax.nn.dot_product_attention`` computes, whose softmax is float32 whatever it is given."""
    assert scale is None
    logits = jnp.einsum("nthw,nshw->nhts", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("nhts,nshw->nthw", jax.nn.softmax(jnp.where(mask, logits, -jnp.inf)), value)


def test_many_seeds_are_the_same_runs_in_every_way(peers, monkeypatch):
    """With the peers, because it compiles a training program four times.

    Without float32 there is nothing that another order of sums could change: with it the ways differ by 4e-9.
    """
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention_in_float64)
    small = replace(SIZE, shape=shape.neox(V, layers=1, width=8, heads=1, start=False, dtype="float64"))
    rows = lm_seeds.measure("SFT", small, runs=2, one_by_one=1)
    assert [row.measured for row in rows] == [2, 2, 2, 1]
    assert max(row.difference for row in rows) < 1e-12
    assert all(0 < row.seconds <= row.with_compiling for row in rows)


def test_the_tables_are_written_and_shown_without_peers(tmp_path, monkeypatch, capsys):
    seeds = [SeedRow("SFT", SIZE.name, "fit_many", 2, 2, 1.0, 2.0, 1.0, 1.0, 0.0)]
    monkeypatch.setattr(lm_contest, "peers_are_installed", lambda: False)
    monkeypatch.setattr(lm_limits, "machine", lambda dtype: Machine(1e11, 1e10))
    monkeypatch.setattr(lm_seeds, "measure", lambda *_: seeds)
    language_models.main(tmp_path, language_models.Bench((SIZE,), loads=("SFT",), repeats=1))
    rows = pl.read_csv(tmp_path / "transformers.csv")
    assert rows["side"].to_list() == [
        "gvgap_jax", "PyTorch, eager", "PyTorch, torch.compile", "TRL", "gvgap_jax", "transformers, generate",
    ]  # fmt: skip
    assert (rows.filter(rows["side"] != "gvgap_jax")["note"] == "not installed").all()
    assert rows.filter(rows["side"] == "gvgap_jax")["tokens_per_second"].is_finite().all()
    assert pl.read_csv(tmp_path / "seeds.csv")["way"].to_list() == ["fit_many"]
    assert (tmp_path / "machine.json").exists()
    assert "not measured" in capsys.readouterr().out
