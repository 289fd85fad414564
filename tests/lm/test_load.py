"""Checkpoints of Hugging Face: the same numbers here as there, straight into their places, and byte for byte back.

The folder golden_checkpoints holds what the package transformers wrote and said.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from gvgap_jax.lm.hf import architectures, load, save, tensors
from gvgap_jax.lm.hf.families import FAMILIES
from gvgap_jax.lm.model import attention, decode, transformer
from gvgap_jax.lm.model import shape as shapes
from gvgap_jax.training import layouts
from tests.lm.test_transformer import scrambled

GOLDEN = Path(__file__).parent / "golden_checkpoints"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if (path / "config.json").exists())
ACCURACY = 2e-5  # of logits, relative to the largest; float32 on both sides
every_golden = pytest.mark.parametrize("name", NAMES)


def logits_of(shape, params, tokens):
    states, _ = jax.jit(transformer.forward, static_argnums=0)(shape, params, jnp.asarray(tokens))
    return np.asarray(transformer.read(shape, params, states))


def difference(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def stored_in(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def same(left, right):
    return jax.tree.all(jax.tree.map(lambda one, other: np.array_equal(one, other), left, right))


def copied(name, folder, change=None):
    """A golden checkpoint in another folder, with other tensors."""
    shutil.copytree(GOLDEN / name, folder)
    if change is not None:
        save_file(change(stored_in(folder)), folder / load.WHOLE, metadata={"format": "pt"})
    return folder


@functools.cache
def loaded(name):
    checkpoint = load.open_checkpoint(GOLDEN / name)
    return checkpoint, load.load(checkpoint)


@every_golden
def test_logits_and_greedy_tokens_are_those_of_transformers(name):
    checkpoint, params = loaded(name)
    with np.load(GOLDEN / name / "expected.npz") as expected:
        tokens, logits, greedy = (expected[key] for key in ("tokens", "logits", "greedy"))
    assert difference(logits_of(checkpoint.shape, params, tokens.astype(int)), logits) < ACCURACY
    prompts, horizon = jnp.asarray(tokens, int), greedy.shape[1]
    sample = jax.jit(decode.sample, static_argnums=(1, 4, 5))
    ours = sample(jax.random.key(0), checkpoint.shape, params, prompts, horizon, decode.Decoding(temperature=0))
    np.testing.assert_array_equal(ours.responses, greedy)
    assert len(np.unique(greedy)) > 3


def test_shapes_are_read_from_old_and_new_fields():
    neox = shapes.neox(41, 2, 30, 3, hidden=12, rotary_base=300.0, start=False)
    assert loaded("neox")[0].shape == neox
    scaling = shapes.RotaryScaling(8.0, 24, 1.0, 4.0)
    sizes = {"key_value_heads": 2, "head_width": 6, "hidden": 20, "start": False}
    llama = shapes.llama(37, 2, 24, 6, rotary_base=500.0, rotary_scaling=scaling, **sizes)
    assert loaded("llama_3")[0].shape == llama
    assert loaded("llama_bfloat16")[0].shape.rotary_scaling == shapes.RotaryScaling(3.0)
    qwen = loaded("qwen2_tied")[0].shape
    assert (qwen.bias, qwen.tied, qwen.head_width, "head" in loaded("qwen2_tied")[1]) == (
        *("query_key_value", True, 4, False),
    )


@every_golden
@pytest.mark.parametrize("shard_bytes", [10**9, 15_000])
def test_loading_and_saving_changes_no_byte(tmp_path, name, shard_bytes):
    checkpoint, params = loaded(name)
    save.save(tmp_path / "again", checkpoint, params, shard_bytes=shard_bytes)
    before, after = stored_in(GOLDEN / name), stored_in(tmp_path / "again")
    assert set(before) == set(after)
    for tensor in before:
        assert (before[tensor].dtype, before[tensor].shape) == (after[tensor].dtype, after[tensor].shape)
        assert before[tensor].tobytes() == after[tensor].tobytes()
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == checkpoint.config
    again = load.open_checkpoint(tmp_path / "again")
    assert same(load.load(again), params)
    files = list((tmp_path / "again").glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes < 10**9) == (tmp_path / "again" / load.INDEX).exists()
    assert all(file.stat().st_size < shard_bytes + 5_000 for file in files)


@every_golden
def test_a_sharded_load_is_the_whole_one_and_reads_each_number_once(monkeypatch, name):
    checkpoint, params = loaded(name)
    layout, fetched, whole_fetching = layouts.layout(fsdp=-1), [], load._fetching

    @contextlib.contextmanager
    def counting(checkpoint):
        with whole_fetching(checkpoint) as fetch:

            def counted(name, index):
                found = fetch(name, index)
                fetched.append((name, found.nbytes))
                return found

            yield counted

    monkeypatch.setattr(load, "_fetching", counting)
    split = load.load(checkpoint, place=layout.place)
    assert same(split, params)
    shardings = layout.place(split)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, split, shardings))
    stored = stored_in(GOLDEN / name)
    assert sum(size for _, size in fetched) == sum(tensor.nbytes for tensor in stored.values())
    # Matrices of blocks have even sides, so that each device has a half; the largest leaf is no longer read whole.
    halves = {name: tensor.nbytes // 2 for name, tensor in stored.items() if ".layers." in name and tensor.ndim == 2}
    assert all(size <= halves[name] for name, size in fetched if name in halves)


def test_repeated_parameters_are_read_once(monkeypatch):
    checkpoint, params = loaded("neox")
    pieces = []
    real = tensors.piece
    monkeypatch.setattr(tensors, "piece", lambda *given: pieces.append(given[:2]) or real(*given))
    again = load.load(checkpoint, place=layouts.layout(data=-1).place)
    assert same(again, params)
    assert len(again["head"].addressable_shards) == 2
    assert len(pieces) == len(set(pieces))


@hypothesis.given(st.data())
def test_a_piece_is_that_piece_of_the_whole_leaf(data):
    """Of GPT-NeoX's tensors, because queries, keys and values are interleaved there."""
    params = loaded("neox")[1]
    parts = tensors.parts(FAMILIES["gpt_neox"], params, "embed_out.weight")
    stored = stored_in(GOLDEN / "neox")
    module = data.draw(st.sampled_from(["query", "key", "value", "attended", "up"]))
    kind = data.draw(st.sampled_from(["kernel", "bias"]))
    leaf = np.asarray(params["blocks"][module][kind])[1]
    bounds = [sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2))) for size in leaf.shape]
    index = tuple(
        slice(low, max(high, low + 1)) if low < size else slice(0, 1)
        for (low, high), size in zip(bounds, leaf.shape, strict=True)
    )
    found = tensors.piece(parts["blocks"][module][kind], 1, index, lambda name, index: stored[name][index])
    np.testing.assert_array_equal(found, leaf[index])


def test_a_fused_tensor_is_interleaved_head_by_head():
    """Against the package's own reading: [heads, (query, key, value), W] rows."""
    fused = stored_in(GOLDEN / "neox")["gpt_neox.layers.1.attention.query_key_value.weight"]
    key = np.asarray(loaded("neox")[1]["blocks"]["key"]["kernel"])[1]
    np.testing.assert_array_equal(key[:, 2], fused[2 * 30 + 10 : 2 * 30 + 20].T)


def test_older_files_hold_buffers_and_other_names_of_the_head(tmp_path):
    def older(stored):
        stored["lm_head.weight"] = stored.pop("embed_out.weight")
        stored["gpt_neox.layers.0.attention.bias"] = np.ones((1, 1, 64, 64), bool)
        stored["gpt_neox.layers.0.attention.masked_bias"] = np.float32([-1e9])
        return stored | {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(1, np.float32)}

    checkpoint = load.open_checkpoint(copied("neox", tmp_path / "old", older))
    params = load.load(checkpoint)
    assert same(params, loaded("neox")[1])
    save.save(tmp_path / "new", checkpoint, params)
    renamed = set(stored_in(GOLDEN / "neox")) - {"embed_out.weight"} | {"lm_head.weight"}
    assert set(stored_in(tmp_path / "new")) == renamed


def test_a_reward_model_starts_at_0_on_the_body_and_comes_back(tmp_path):
    checkpoint, language = loaded("qwen2_tied")
    params = load.load(checkpoint, outputs=1, place=layouts.layout(data=-1).place)
    assert same({**params, "head": 0}, {**language, "head": 0})
    assert (params["head"].shape, jnp.any(params["head"])) == ((24, 1), False)
    trained = params | {"head": jnp.arange(24.0, dtype=jnp.float32)[:, None]}
    (tmp_path / "tokenizer.json").write_text("{}")
    save.save(tmp_path / "rm", checkpoint._replace(folder=tmp_path), trained)
    again = load.open_checkpoint(tmp_path / "rm")
    assert again.config["architectures"] == ["Qwen2ForSequenceClassification"]
    assert (tmp_path / "rm" / "tokenizer.json").exists()
    assert same(load.load(again, outputs=1), trained)
    with pytest.raises(ValueError, match=r"score.weight has 1 labels and not 2; a reward model has one"):
        load.load(again, outputs=2)


def test_a_reward_model_is_no_language_model(tmp_path):
    checkpoint = loaded("llama")[0]
    save.save(tmp_path / "rm", checkpoint, load.load(checkpoint, outputs=1))
    with pytest.raises(ValueError, match=r"has no lm_head.weight: it is no language model; load it with outputs=1"):
        load.load(load.open_checkpoint(tmp_path / "rm"))


def test_dtypes_are_chosen_by_the_shape_and_by_the_export(tmp_path):
    checkpoint, params = loaded("llama_bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    wide = load.load(checkpoint, dataclasses.replace(checkpoint.shape, dtype="float64", remat=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype("float64")}
    assert same(wide, params)
    for dtype in ("float32", "float16", "bfloat16"):
        save.save(tmp_path / dtype, checkpoint, params, dtype=dtype)
        assert {tensor.dtype.name for tensor in stored_in(tmp_path / dtype).values()} == {dtype}
        assert json.loads((tmp_path / dtype / "config.json").read_text())["dtype"] == dtype
    assert same(load.load(load.open_checkpoint(tmp_path / "float32")), params)


def test_every_tensor_keeps_its_own_dtype_and_new_ones_have_the_embeddings(tmp_path):
    def mixed(stored):
        return {name: tensor.astype("float32" if "norm" in name else "float16") for name, tensor in stored.items()}

    checkpoint = load.open_checkpoint(copied("llama_bfloat16", tmp_path / "mixed", mixed))
    save.save(tmp_path / "rm", checkpoint, load.load(checkpoint, outputs=1))
    kinds = {name: tensor.dtype.name for name, tensor in stored_in(tmp_path / "rm").items()}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"float32"}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {"float16"}
    assert "score.weight" in kinds
    modes = {path.stat().st_mode for path in (tmp_path / "rm").iterdir()}
    assert len(modes) == 1, "tensors may be read by whom the rest may"


FRESH = {
    "neox": shapes.neox(7, width=16, rotary=0.5, start=False),
    "neox, sequential, tied": shapes.neox(7, width=16, parallel=False, tied=True, start=False),
    "llama, biased": shapes.llama(7, width=16, heads=4, key_value_heads=2, bias="all", start=False),
    "llama 3": shapes.llama(7, width=16, rotary_scaling=shapes.RotaryScaling(8.0, 16), start=False),
    "qwen 2, tied": shapes.llama(
        7, width=16, bias="query_key_value", tied=True, rotary_scaling=shapes.RotaryScaling(2.0), start=False
    ),
}
every_fresh = pytest.mark.parametrize("kind", FRESH)


@every_fresh
def test_a_config_for_a_new_model_is_read_as_its_shape(kind):
    for shape in (FRESH[kind], dataclasses.replace(FRESH[kind], epsilon=3e-4, rotary_base=777.0)):
        config = json.loads(json.dumps(architectures.config_of(shape)))
        assert architectures.shape_of(config) == shape


@every_fresh
def test_a_new_model_is_saved_whole_or_not_at_all(tmp_path, monkeypatch, kind):
    params = scrambled(transformer.init(FRESH[kind], 7, jax.random.key(0)))
    config, folder = architectures.config_of(FRESH[kind]), tmp_path / "new"
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.numpy.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            save.save(folder, config, params)
    assert not folder.exists()
    save.save(folder, config, params)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert same(load.load(load.open_checkpoint(folder)), params)
    with pytest.raises(ValueError, match="holds something already"):
        save.save(folder, config, params)


def test_other_parameters_and_dtypes_are_not_written(tmp_path):
    started = transformer.init(dataclasses.replace(FRESH["neox"], start=True), 7, jax.random.key(0))
    with pytest.raises(ValueError, match="the parameters are not those of Shape"):
        save.save(tmp_path / "new", architectures.config_of(FRESH["neox"]), started)
    with pytest.raises(ValueError, match="stored as one of float64, float32, float16, bfloat16, got 'int8'"):
        save.save(tmp_path / "new", *loaded("llama"), dtype="int8")
    with pytest.raises(ValueError, match="start=False"):
        architectures.config_of(dataclasses.replace(FRESH["neox"], start=True))
    assert not list(tmp_path.iterdir())


def test_slowed_rotations_leave_fast_ones_alone():
    """Llama 3.1's rule, frequency by frequency, in plain Python."""
    scaling = shapes.RotaryScaling(8.0, 8192, 1.0, 4.0)
    frequencies = 500_000.0 ** -(np.arange(0, 128, 2) / 128)
    expected = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        between = (1 - smooth) * frequency / 8 + smooth * frequency
        expected.append(frequency if wavelength < 8192 / 4 else frequency / 8 if wavelength > 8192 else between)
    found = attention._slowed(jnp.asarray(frequencies), scaling)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(set(np.round(np.asarray(found) / frequencies, 6))) > 3


def _without(name):
    return lambda stored: {key: tensor for key, tensor in stored.items() if key != name}


NORM, DENSE = "gpt_neox.final_layer_norm.bias", "gpt_neox.layers.1.attention.dense.weight"
BROKEN = {
    "missing": (_without(DENSE), "has no gpt_neox.layers.1.attention.dense.weight, which its config.json asks for"),
    "size": (
        lambda stored: stored | {NORM: np.zeros(31)},
        r"final_layer_norm.bias is \(31,\), but .* makes it \(30,\)",
    ),
    "unknown": (lambda stored: stored | {"q_norm": np.zeros(2)}, "holds q_norm, which a gpt_neox model has not"),
    "quantised": (lambda stored: stored | {NORM: np.zeros(30, np.int8)}, "is stored as I8; there are F64, F32, F16"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_other_tensors_are_refused_by_name(tmp_path, what):
    change, message = BROKEN[what]
    with pytest.raises(ValueError, match=message):
        load.open_checkpoint(copied("neox", tmp_path / "broken", change))


def test_a_head_that_is_missing_or_of_another_size_is_refused(tmp_path):
    headless = load.open_checkpoint(copied("neox", tmp_path / "none", _without("embed_out.weight")))
    with pytest.raises(ValueError, match=r"has no embed_out.weight"):
        load.load(headless)
    short = copied("neox", tmp_path / "short", lambda stored: stored | {"embed_out.weight": np.zeros((40, 30))})
    with pytest.raises(ValueError, match=r"embed_out.weight is \(40, 30\), but config.json makes it \(41, 30\)"):
        load.load(load.open_checkpoint(short))


def test_damaged_files_are_refused(tmp_path):
    folder = copied("neox", tmp_path / "cut")
    whole = (folder / load.WHOLE).read_bytes()
    for end in (-100, 1000, 4, 0):
        (folder / load.WHOLE).write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"model.safetensors is cut short or damaged \(.*\); fetch it again"):
            load.open_checkpoint(folder)
    (folder / load.CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON object .*: it is damaged"):
        load.open_checkpoint(folder)


def test_missing_files_are_refused(tmp_path):
    checkpoint, params = loaded("llama")
    folder = tmp_path / "several"
    save.save(folder, checkpoint, params, shard_bytes=20_000)
    second = sorted(folder.glob("model-*"))[1]
    second.replace(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"lacks model-00002-of-0000\d.safetensors, which .*index.json names"):
        load.open_checkpoint(folder)
    save_file({"model.norm.weight": np.zeros(24)}, second)
    with pytest.raises(ValueError, match=r"should be in the files that .* names, and is not"):
        load.open_checkpoint(folder)
    (folder / load.INDEX).unlink()
    with pytest.raises(ValueError, match=r"if there is a pytorch_model.bin, convert it with the package transformers"):
        load.open_checkpoint(folder)
    (folder / load.CONFIG).unlink()
    with pytest.raises(ValueError, match=r"holds no config.json"):
        load.open_checkpoint(folder)


def test_names_are_of_folders_or_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, "config.json" in allow_patterns, "pytorch_model.bin" in allow_patterns))
        return str(GOLDEN / "llama")

    with monkeypatch.context() as patched:
        patched.setattr("huggingface_hub.snapshot_download", download)
        assert load.open_checkpoint("someone/llama", "main") == loaded("llama")[0]
    assert asked == [("someone/llama", "main", True, False)]
    with pytest.raises(ValueError, match="is a local folder, which has no revision 'main'; leave it out"):
        load.open_checkpoint(GOLDEN / "llama", "main")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("someone/nothing", str(tmp_path / "a" / "b")):
        with pytest.raises(ValueError, match=r"is no local folder, and could not be fetched from Hugging Face's hub"):
            load.open_checkpoint(name)


def test_packages_that_are_not_installed_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match=r"safetensors is not installed; install it with: .*gvgap_jax\[tldr\]"):
        load.open_checkpoint(GOLDEN / "llama")


def test_other_shapes_and_larger_vocabularies_are_refused():
    checkpoint = loaded("llama")[0]
    with pytest.raises(ValueError, match=r"not that of .*llama: layers 3 there, 2 now"):
        load.load(checkpoint, dataclasses.replace(checkpoint.shape, layers=2))
    load.check_vocabulary(checkpoint.shape, 37)
    with pytest.raises(ValueError, match="the tokenizer has 38 tokens and the model only 37 rows"):
        load.check_vocabulary(checkpoint.shape, 38)


OTHERS = {
    "model_type 'mixtral' is not here; there are gpt_neox, llama, qwen2, qwen3, mistral, olmo2, gemma2": {
        "model_type": "mixtral"
    },
    "'gemma3' is a model of text and images; its text alone is 'gemma3_text'": {"model_type": "gemma3"},
    "config.json has no vocab_size, hidden_size": {"vocab_size": None, "hidden_size": None},
    "hidden_act 'quick_gelu' is not here; there are gelu, ": {"hidden_act": "quick_gelu"},
    "quantised weights": {"quantization_config": {"bits": 4}},
    "layer_types asks for other layers with sliding_attention than a Llama model": {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]
    },
    "layer_types asks for other layers with sliding_attention .* with sliding_window None": {
        "model_type": "qwen2",
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "for each of 3 layers, got 2 of them": {"layer_types": ["full_attention", "full_attention"]},
    "for each of 3 layers, got chunked_attention": {"layer_types": ["full_attention", "chunked_attention"]},
    "no_rope_layers must have one number for each of 3 layers": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
    "use_bidirectional_attention = True is not known here": {"use_bidirectional_attention": True},
    "is_causal = False is not known here": {"is_causal": False},
    "logit_scale = 0.5 is not known here for a llama model": {"logit_scale": 0.5},
    "attn_logit_softcapping = 9.0 is not known here": {"model_type": "gemma3_text", "attn_logit_softcapping": 9.0},
    "rope_interleaved = True is not known here": {"rope_interleaved": True},
    "rope_scaling.attention_factor = 2.0 is not known": {
        "rope_scaling": {"rope_type": "linear", "attention_factor": 2.0}
    },
    "rotary embeddings of type 'yarn' are not here": {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    "rotary embeddings of type 'dynamic'": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    "differ between layers": {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
    "have no low_freq_factor, high_freq_factor": {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
    "rope_parameters of a Gemma3 model are full_attention and sliding_attention": {
        "model_type": "gemma3_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 5.0},
    },
    "a Gemma3 model rotates whole heads, got 0.5": {
        "model_type": "gemma3_text",
        "rope_parameters": {"full_attention": {}, "sliding_attention": {"partial_rotary_factor": 0.5}},
    },
    "scaled rotary embeddings in layers with a window": {
        "model_type": "gemma3_text",
        "rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}},
    },
    "rotates whole heads, got 0.5": {"partial_rotary_factor": 0.5},
}


@pytest.mark.parametrize("message", OTHERS)
def test_other_architectures_are_refused(message):
    with pytest.raises(ValueError, match=message):
        architectures.shape_of(loaded("llama")[0].config | OTHERS[message])


def test_a_window_that_is_not_in_use_is_none():
    config = loaded("qwen2_tied")[0].config
    unused = {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 0, "layer_types": None}
    assert architectures.shape_of(config | unused) == architectures.shape_of(config)


@pytest.mark.parametrize("given", [(0.0,), (2.0, 0), (2.0, 8, 4.0, 4.0)])
def test_impossible_scalings_are_refused(given):
    with pytest.raises(ValueError, match="RotaryScaling: "):
        shapes.RotaryScaling(*given)
