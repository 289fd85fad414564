"""The package transformers opens what we save and says what we say; its random models are read as they are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax.lm.hf import architectures, load, save
from gvgap_jax.lm.model import classes, transformer
from gvgap_jax.types import PADDING
from tests.lm.test_load import ACCURACY, FRESH, difference, every_fresh, logits_of
from tests.lm.test_transformer import scrambled

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0}
OLD_NEOX = {"rotary_emb_base": 1000, "rotary_pct": 0.5}
NEW_NEOX = {
    "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 90.0, "partial_rotary_factor": 0.75}
}
RANDOM = {
    "neox, old": ("gpt_neox", {"num_attention_heads": 2, **OLD_NEOX}),
    "neox, new": ("gpt_neox", {"num_attention_heads": 3, "use_parallel_residual": False, **NEW_NEOX}),
    "neox, tied": ("gpt_neox", {"num_attention_heads": 3, "tie_word_embeddings": True, "layer_norm_eps": 1e-2}),
    "llama, old": ("llama", {"head_dim": 10, "rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama, new": ("llama", {"num_key_value_heads": 3, "rope_parameters": LLAMA3 | {"rope_theta": 1e3}}),
    "llama, older still": ("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2}),
    "qwen 2, old": ("qwen2", {"num_key_value_heads": 2, "rope_theta": 1e6}),
    "qwen 2, new": (
        "qwen2",
        {
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
SIZES = {"vocab_size": 23, "num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 28, "num_attention_heads": 6}
SIZES |= {"max_position_embeddings": 32, "pad_token_id": 22, "bos_token_id": 0, "eos_token_id": 0}
TOKENS = np.random.default_rng(0).integers(0, 22, (3, 13))
every_model = pytest.mark.parametrize("name", RANDOM)


def written(name, folder, auto):
    """A random model as transformers stores it, with the fields of its config as they were given."""
    from tests.lm.golden_checkpoints.make import randomised

    kind, changes = RANDOM[name]
    config = json.loads(json.dumps(SIZES | changes))
    model = randomised(auto.from_config(hf.AutoConfig.for_model(kind, num_labels=1, **config)), seed=len(name))
    model.save_pretrained(folder)
    found = json.loads((folder / load.CONFIG).read_text())
    if "rope_parameters" not in changes:
        del found["rope_parameters"]
    (folder / load.CONFIG).write_text(json.dumps(found | SIZES | changes))
    return model


@every_model
def test_logits_are_those_of_a_random_model(tmp_path, name):
    model = written(name, tmp_path, hf.AutoModelForCausalLM)
    checkpoint = load.open_checkpoint(tmp_path)
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS)).logits.numpy()
    assert difference(logits_of(checkpoint.shape, load.load(checkpoint), TOKENS), theirs) < ACCURACY


@every_model
def test_rewards_are_those_of_a_random_classifier_with_padding_on_the_left(tmp_path, name):
    model = written(name, tmp_path, hf.AutoModelForSequenceClassification)
    there = np.arange(13) >= np.array([0, 4, 7])[:, None]
    checkpoint = load.open_checkpoint(tmp_path)
    with torch.no_grad():
        mask = torch.tensor(there, dtype=torch.long)
        theirs = model(torch.tensor(np.where(there, TOKENS, 22)), attention_mask=mask).logits.numpy()
    score = jax.jit(classes.transformer_verifier(checkpoint.shape).score)
    rows = jnp.asarray(np.where(there, TOKENS, PADDING))
    ours = score(load.load(checkpoint, outputs=1), rows[:, :8], rows[:, 8:])
    assert difference(np.asarray(ours)[:, None], theirs) < ACCURACY


@every_fresh
@pytest.mark.parametrize("outputs", [7, 1])
def test_transformers_opens_what_we_save(tmp_path, kind, outputs):
    shape, tokens = FRESH[kind], TOKENS % 7
    params = scrambled(transformer.init(shape, outputs, jax.random.key(0)))
    auto = hf.AutoModelForCausalLM if outputs == 7 else hf.AutoModelForSequenceClassification
    save.save(tmp_path / "new", architectures.config_of(shape) | {"pad_token_id": 6}, params, shard_bytes=4000)
    model, info = auto.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(tokens.clip(0, 5))).logits.numpy()
    ours = logits_of(shape, params, tokens.clip(0, 5))
    assert difference(ours if outputs == 7 else ours[:, -1], theirs) < ACCURACY


def test_a_file_that_came_from_transformers_goes_back_byte_for_byte(tmp_path):
    written("neox, old", tmp_path / "theirs", hf.AutoModelForCausalLM)
    checkpoint = load.open_checkpoint(tmp_path / "theirs")
    save.save(tmp_path / "ours", checkpoint, load.load(checkpoint))
    for name in (load.WHOLE, "generation_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
