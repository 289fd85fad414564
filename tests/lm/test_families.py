"""Families of models, each against what transformers wrote: left padding, windows, heads, and what config.json says.

Logits, greedy tokens, loading and saving of every checkpoint in golden_checkpoints are in ``test_load``.
"""

import ast
import dataclasses
import inspect
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from gvgap_jax.lm.hf import architectures, families, load, save
from gvgap_jax.lm.hf.families import FAMILIES
from gvgap_jax.lm.model import attention, decode, transformer
from gvgap_jax.lm.model import shape as shapes
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.types import PADDING
from tests.lm.golden_checkpoints.configs import CONFIGS
from tests.lm.real_configs import REAL
from tests.lm.test_load import ACCURACY, GOLDEN, copied, difference, loaded, logits_of, same, stored_in
from tests.lm.test_transformer import scrambled

PADDED = [name for name in CONFIGS if (GOLDEN / name / "expected.npz").exists()]
with_padding = pytest.mark.parametrize(
    "name", [name for name in PADDED if "padded_logits" in np.load(GOLDEN / name / "expected.npz")]
)


def test_every_family_has_a_checkpoint():
    assert {config["model_type"] for config in CONFIGS.values()} == set(FAMILIES)


@with_padding
def test_rows_with_padding_on_the_left_are_read_and_continued_as_by_transformers(name):
    checkpoint, params = loaded(name)
    with np.load(GOLDEN / name / "expected.npz") as expected:
        tokens, logits, greedy = (expected[key] for key in ("tokens", "padded_logits", "padded_greedy"))
    there = np.arange(tokens.shape[1]) >= np.array([0, 3, 6])[:, None]
    rows = np.where(there, tokens.astype(int), PADDING)
    ours = logits_of(checkpoint.shape, params, rows)
    assert difference(ours[there], logits[there]) < ACCURACY
    sample = jax.jit(decode.sample, static_argnums=(1, 4, 5))
    how = decode.Decoding(temperature=0)
    sampled = sample(jax.random.key(0), checkpoint.shape, params, jnp.asarray(rows), greedy.shape[1], how)
    np.testing.assert_array_equal(sampled.responses, greedy)


WINDOWED = shapes.llama(7, layers=1, width=16, window=3, windowed=(0,), dtype="float64", start=False)


def test_a_window_counts_tokens_and_not_padding():
    """A token reaches itself and the two before it, whatever padding lies between, and in a cache too."""
    params = scrambled(transformer.init(WINDOWED, 7, jax.random.key(0)))
    row = jnp.array([[PADDING, 1, 2, PADDING, PADDING, 3, 4, 5]])

    def read(embedding):
        changed = params | {"ends": params["ends"] | {"embedding": {"embedding": embedding}}}
        return jnp.sum(transformer.forward(WINDOWED, changed, row)[0], axis=-1)[0]

    reach = jnp.max(jnp.abs(jax.jacrev(read)(params["ends"]["embedding"]["embedding"])), axis=-1)
    there = np.array([1, 2, 5, 6, 7])
    reached = [{int(token) for token in np.flatnonzero(reach[place, 1:6]) + 1} for place in there]
    assert reached == [{1}, {1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}]

    whole = transformer.forward(WINDOWED, params, row)[0]
    cache, pieces = transformer.empty_cache(WINDOWED, 1, 9), []
    for piece in (row[:, :4], row[:, 4:7], row[:, 7:]):
        states, cache = transformer.forward(WINDOWED, params, piece, cache)
        pieces.append(states)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1)[:, there], whole[:, there], atol=1e-12)


def test_what_differs_between_layers_is_data():
    """Two shapes that differ in their layers alone trace to one program, of as many operations."""
    plain = shapes.llama(7, layers=4, width=16)
    assert attention.of_layers(plain)[0] == (None, None)
    mixed = dataclasses.replace(plain, window=2, windowed=(0, 2), window_rotary_base=10.0, unrotated=(3,))
    differing, common = attention.of_layers(mixed)
    assert differing.windowed.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(differing.frequency[1], common)
    np.testing.assert_array_equal(differing.frequency[0], attention.frequencies(mixed, 10.0))
    assert not differing.frequency[3].any()
    assert differing.frequency[0][1] > common[1] > 0

    def length(shape):
        params = transformer.init(shape, 7, jax.random.key(0))
        program = jax.make_jaxpr(lambda params: transformer.forward(shape, params, jnp.ones((1, 3), int))[0])
        return len(str(program(params)))

    deeper = dataclasses.replace(mixed, layers=9, windowed=(0, 2, 4), unrotated=(3, 7))
    assert length(deeper) < 1.05 * length(mixed)


def test_a_field_at_its_default_is_not_in_what_records_are_named_by():
    text = repr(Shape(7))
    assert text == (
        "Shape(vocabulary=7, layers=2, width=32, heads=2, key_value_heads=2, head_width=16, hidden=128, norm='layer', "
        "epsilon=1e-05, parallel=True, gated=False, bias='all', rotary=0.25, rotary_base=10000.0, rotary_scaling=None, "
        "tied=False, start=True, dtype='float32', remat=False)"
    )
    for field in dataclasses.fields(Shape)[shapes.FIRST :]:
        assert f"{field.name}=" not in text
    assert repr(Shape(7, positions=8)) == text[:-1] + ", positions=8)"
    assert eval(repr(WINDOWED), {"Shape": Shape}) == WINDOWED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 3}, "a window of at least 1 token and the layers that have it go together, got 3"),
        ({"windowed": (0,)}, "go together, got None"),
        ({"window": 0, "windowed": (0,)}, "a window of at least 1 token"),
        ({"window": 3, "windowed": (2,)}, r"windowed must be numbers of layers below 2 in order, got \(2,\)"),
        ({"unrotated": [0]}, r"unrotated must be numbers of layers"),
        ({"window_rotary_base": 10.0}, "is of layers with a window"),
        ({"positions": -1}, "positions must be an integer of at least 0"),
        ({"order": "after"}, "parallel blocks have their norms before"),
        ({"order": "inside"}, "there is no order 'inside'"),
        ({"activation": "swish"}, "there is no activation 'swish'"),
        ({"score_cap": 0.0}, "score_cap must be a number from 1e-30"),
    ],
    ids=str,
)
def test_shapes_of_layers_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=f"Shape: .*{words}|Shape: {words}"):
        Shape(7, **changes)


BIASED = {
    "all": {"query", "key", "value", "attended", "up", "gate", "down"},
    "attention": {"query", "key", "value", "attended"},
    "feed_forward": {"up", "gate", "down"},
    "query_key_value": {"query", "key", "value"},
    "none": set(),
}


@pytest.mark.parametrize("bias", BIASED)
def test_which_maps_have_a_bias(bias):
    shape = shapes.llama(7, width=16, bias=bias)
    blocks = jax.eval_shape(lambda: transformer.init(shape, 7, jax.random.key(0)))["blocks"]
    assert {module for module, leaves in blocks.items() if "bias" in leaves} == BIASED[bias]


def test_activations_are_those_of_their_names():
    x = np.linspace(-3, 3, 7)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    wanted = {
        "gelu": [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x],
        "gelu_tanh": x * (1 + np.tanh(inner)) / 2,
        "silu": x / (1 + np.exp(-x)),
        "relu": np.maximum(x, 0),
    }
    assert set(wanted) == set(transformer.ACTIVATIONS)
    for name, activation in transformer.ACTIVATIONS.items():
        np.testing.assert_allclose(activation(jnp.asarray(x)), wanted[name], rtol=1e-12, atol=1e-15)


def test_a_soft_cap_is_of_the_vocabularys_logits_and_not_of_rewards():
    shape = shapes.llama(7, width=16, logit_cap=2.0, start=False, dtype="float64")
    states = 10 * jnp.eye(16, dtype=jnp.float64)
    reward, logits = ({"head": jnp.ones((16, outputs))} for outputs in (1, 7))
    np.testing.assert_allclose(transformer.read(shape, reward, states), np.full((16, 1), 10.0))
    np.testing.assert_allclose(transformer.read(shape, logits, states), np.full((16, 7), 2 * np.tanh(5.0)))


def test_norms_multiply_by_one_at_first():
    """Whatever is stored for it: the two kinds of RMSNorm start as the same function."""
    plain, other = (shapes.llama(7, width=16, norm=norm, start=False) for norm in ("rms", "rms_plus_one"))
    tokens = jnp.array([[1, 2, 3]])
    states = [
        transformer.forward(shape, transformer.init(shape, 7, jax.random.key(0)), tokens)[0] for shape in (plain, other)
    ]
    np.testing.assert_array_equal(*states)
    assert jnp.abs(states[0]).max() > 0.1


def test_small_scales_of_norms_are_not_lost_in_bfloat16():
    """1 + 0.003 is 1 in bfloat16."""
    shape = shapes.llama(7, width=64, norm="rms_plus_one", dtype="bfloat16", start=False)
    params = jax.tree.map(jnp.float32, transformer.init(shape, 7, jax.random.key(0)))
    larger = params | {"ends": params["ends"] | {"norm": {"scale": jnp.full(64, 0.003, jnp.float32)}}}
    tokens = jnp.arange(7)[None]
    before, after = (transformer.forward(shape, given, tokens)[0] for given in (params, larger))
    assert before.dtype == after.dtype == jnp.bfloat16
    before, after = (np.abs(np.asarray(states, np.float64)).sum() for states in (before, after))
    assert 1.002 < after / before < 1.004


def test_rows_longer_than_learned_positions_are_refused():
    checkpoint, params = loaded("gpt2")
    with pytest.raises(ValueError, match="reads rows of up to 64 tokens, and 65 are fed"):
        transformer.forward(checkpoint.shape, params, jnp.zeros((1, 65), int))
    with pytest.raises(ValueError, match=r"and 70 are fed .*; choose shorter ones"):
        decode.sample(jax.random.key(0), checkpoint.shape, params, jnp.zeros((1, 60), int), 11)


FRESH = {
    "qwen 3": (shapes.llama(7, width=16, head_norm="each", bias="attention", window=9, windowed=(1,)), "qwen3"),
    "mistral": (shapes.llama(7, width=16, window=3, windowed=(0, 1)), "mistral"),
    "olmo 2": (shapes.llama(7, width=16, order="after", head_norm="whole"), "olmo2"),
    "smollm 3": (shapes.llama(7, width=16, unrotated=(1,), tied=True, bias="feed_forward"), "smollm3"),
    "phi 3": (shapes.llama(7, width=16, rotary=0.5), "phi3"),
    "llama, relu": (shapes.llama(7, width=16, activation="relu", bias="attention"), "llama"),
    "gemma 2": (
        shapes.llama(
            7,
            width=16,
            tied=True,
            norm="rms_plus_one",
            order="both",
            activation="gelu_tanh",
            scaled_embedding=True,
            window=2,
            windowed=(0,),
            score_cap=2.0,
            score_divisor=3.0,
        ),
        "gemma2",
    ),
    "gpt 2": (shapes.neox(7, width=16, rotary=0.0, parallel=False, positions=9, activation="gelu_tanh"), "gpt2"),
    "gpt 2, other scores": (
        shapes.neox(7, width=16, rotary=0.0, parallel=False, positions=9, activation="relu", score_divisor=1.0),
        "gpt2",
    ),
}
FRESH["gemma 3"] = (
    dataclasses.replace(FRESH["gemma 2"][0], head_norm="each", score_cap=None, window_rotary_base=10.0),
    "gemma3_text",
)
every_fresh = pytest.mark.parametrize("name", FRESH)


@every_fresh
def test_a_shape_is_written_as_the_first_family_that_has_it(name, tmp_path):
    shape, kind = FRESH[name]
    shape = dataclasses.replace(shape, start=False)
    config = json.loads(json.dumps(architectures.config_of(shape, positions=9)))
    assert config["model_type"] == kind
    assert architectures.shape_of(config) == shape
    params = scrambled(transformer.init(shape, 7, jax.random.key(0)))
    save.save(tmp_path / "new", config, params)
    assert same(load.load(load.open_checkpoint(tmp_path / "new")), params)


def test_a_shape_of_no_family_is_refused():
    with pytest.raises(ValueError, match=r"no family here has models of this shape: Shape\(.*there are gpt_neox"):
        architectures.config_of(shapes.llama(7, width=16, order="after", unrotated=(0,), start=False))


def test_a_tied_head_that_is_stored_and_another_one_is_used_and_kept(tmp_path):
    other = np.random.default_rng(0).normal(size=(37, 24)).astype(np.float32)
    folder = copied("qwen2_tied", tmp_path / "other", lambda stored: stored | {"lm_head.weight": other})
    checkpoint = load.open_checkpoint(folder)
    params = load.load(checkpoint)
    assert (checkpoint.shape.tied, checkpoint.config["tie_word_embeddings"]) == (False, False)
    np.testing.assert_array_equal(params["head"], other.T)
    save.save(tmp_path / "again", checkpoint, params)
    again = load.open_checkpoint(tmp_path / "again")
    assert same(load.load(again), params)
    assert again.config == checkpoint.config


def test_a_tied_head_that_is_stored_twice_is_one(tmp_path):
    twice = copied("qwen2_tied", tmp_path / "twice", lambda stored: stored | {"lm_head.weight": stored[EMBEDDING]})
    checkpoint = load.open_checkpoint(twice)
    params = load.load(checkpoint)
    assert checkpoint.shape.tied
    assert "head" not in params
    save.save(tmp_path / "again", checkpoint, jax.tree.map(lambda leaf: 2 * leaf, params))
    stored = stored_in(tmp_path / "again")
    np.testing.assert_array_equal(stored["lm_head.weight"], stored[EMBEDDING])
    np.testing.assert_array_equal(stored[EMBEDDING], 2 * stored_in(twice)[EMBEDDING])


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize("row", [0, 17, 36])
def test_a_stored_head_is_another_one_whichever_row_differs(tmp_path, monkeypatch, row):
    monkeypatch.setattr(load, "COMPARED", 8)

    def changed(stored):
        head = stored[EMBEDDING].copy()
        head[row, 3] += 1
        return stored | {"lm_head.weight": head}

    assert not load.open_checkpoint(copied("qwen2_tied", tmp_path / "other", changed)).shape.tied


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gemma3", "smollm3"])
def test_older_files_without_kinds_of_layers_are_read_by_the_familys_rule(name):
    """The newer ones, which transformers wrote by the same rule, have ``layer_types`` and agree."""
    config = loaded(name)[0].config
    older = {field: value for field, value in config.items() if field != "layer_types"}
    assert architectures.shape_of(older) == architectures.shape_of(config)
    if name != "smollm3":
        assert 0 < len(architectures.shape_of(config).windowed) < 3


def test_two_rotary_embeddings_are_read_from_old_fields_and_new_ones():
    old = loaded("gemma3")[0].config
    new = {name: old[name] for name in old if name not in ("rope_theta", "rope_local_base_freq", "rope_scaling")}
    scaled = {"rope_type": "linear", "factor": 8.0}
    near = {"rope_type": "default", "rope_theta": 10.0}
    new["rope_parameters"] = {"full_attention": scaled | {"rope_theta": 1000.0}, "sliding_attention": near}
    shape = architectures.shape_of(old)
    assert (shape.rotary_base, shape.window_rotary_base, shape.rotary_scaling.factor) == (1000.0, 10.0, 8.0)
    assert architectures.shape_of(new) == shape
    both = new | {"rope_parameters": {"full_attention": {"rope_theta": 1000.0}, "sliding_attention": near}}
    assert architectures.shape_of(both | {"rope_scaling": scaled}) == shape
    usual = architectures.shape_of(new | {"rope_parameters": None})
    assert (usual.rotary_base, usual.window_rotary_base, usual.rotary_scaling) == (1e6, 1e4, None)


def test_a_body_that_was_saved_alone_has_names_without_a_prefix(tmp_path):
    """As the files of GPT-2 on the hub have."""

    def alone(stored):
        bare = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
        return bare | {f"h.{layer}.attn.bias": np.ones((1, 1, 64, 64), np.float32) for layer in range(2)}

    checkpoint = load.open_checkpoint(copied("gpt2", tmp_path / "bare", alone))
    params = load.load(checkpoint)
    assert same(params, loaded("gpt2")[1])
    save.save(tmp_path / "again", checkpoint, params)
    assert set(stored_in(tmp_path / "again")) == {name[12:] for name in stored_in(GOLDEN / "gpt2")}


def test_who_judges_must_have_a_reward_head(tmp_path):
    language = loaded("llama")[0]
    with pytest.raises(ValueError, match=r"llama has no score\.weight: it is no reward model, and would find all"):
        load.check_scalar_head(language)
    assert not load.has_scalar_head(language)
    for labels in (1, 2):
        save.save(tmp_path / str(labels), language, load.load(language, outputs=labels))
    one, two = (load.open_checkpoint(tmp_path / str(labels)) for labels in (1, 2))
    load.check_scalar_head(one)
    for refused in (lambda: load.check_scalar_head(two), lambda: load.load(two, outputs=1)):
        with pytest.raises(ValueError, match=r"score\.weight has 2 labels and not 1; a reward model has one"):
            refused()
    biased = stored_in(tmp_path / "1") | {"score.bias": np.zeros(1, np.float32)}
    save_file(biased, tmp_path / "1" / load.WHOLE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds score\.bias: a reward head with a bias is not here"):
        load.open_checkpoint(tmp_path / "1")


@pytest.mark.parametrize("has_config", [False, True])
def test_an_adapter_is_refused_with_how_to_merge_it(tmp_path, has_config):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "someone/llama"}')
    save_file({"base_model.model.x.lora_A.weight": np.ones((2, 3))}, tmp_path / "adapter_model.safetensors")
    if has_config:
        (tmp_path / "config.json").write_bytes((GOLDEN / "llama" / "config.json").read_bytes())
    for opened in (load.open_checkpoint, load.shape_of):
        with pytest.raises(ValueError, match=r"holds an adapter .* merge it first, .*merge_and_unload\(\)\.save_pre"):
            opened(tmp_path)


def test_a_whole_model_beside_an_adapter_is_read(tmp_path):
    folder = copied("llama", tmp_path / "both")
    (folder / "adapter_config.json").write_text("{}")
    assert same(load.load(load.open_checkpoint(folder)), loaded("llama")[1])


def test_the_page_has_a_line_for_every_family():
    """Those that were measured are those that are read, and nothing differs in them."""
    page = (Path(__file__).parents[2] / "docs" / "guides" / "checkpoints.md").read_text(encoding="utf-8")
    _, _, table = page.partition("<!-- families -->\n")
    head, _, *lines = table.partition("\n<!-- end -->")[0].split("\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[0] for line in cells] == [f"`{kind}`" for kind in FAMILIES]
    assert len({len(line) for line in cells} | {head.count("|") - 1}) == 1
    for _, *differences, greedy, padded, saved in cells:
        assert max(map(float, differences)) < ACCURACY
        assert all(equal.split(" of ")[0] == equal.split(" of ")[1] for equal in (greedy, padded))
        assert saved == "equal"


def _lines(name):
    """Source lines of a family's entry in the table."""
    tree = ast.parse(inspect.getsource(families))
    entry = next(
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(families, node.targets[0].id) is FAMILIES[name]
    )
    return entry.end_lineno - entry.lineno + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_costs_less_than_40_lines(name):
    assert _lines(name) < 40


@pytest.mark.parametrize("name", REAL)
def test_configurations_of_well_known_models_are_read_and_have_their_parameters(name):
    config, wanted, parameters = REAL[name]
    shape = architectures.shape_of(config)
    assert {field: getattr(shape, field) for field in wanted} == wanted
    assert transformer.num_parameters(shape, shape.vocabulary) == parameters


def test_a_field_that_asks_for_something_unknown_is_refused_wherever_it_stands():
    for config, _, _ in REAL.values():
        for field, value in (("new_scale", 0.5), ("attention_sinks", 4), ("kind_of_norm", "other"), ("moe", {"a": 1})):
            with pytest.raises(
                ValueError, match=rf"config\.json: {field} = .* is not known here for a {config['model_type']}"
            ):
                architectures.shape_of(config | {field: value})
        for off in (None, False, 0, "", [], {}):
            assert architectures.shape_of(config | {"new_scale": off}) == architectures.shape_of(config)
