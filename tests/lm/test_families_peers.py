"""Every family against the package transformers, on random models that it makes; and it opens what we save."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gvgap_jax.lm.hf import architectures, load, save
from gvgap_jax.lm.model import transformer
from tests.lm.test_families import FRESH, every_fresh
from tests.lm.test_load import ACCURACY, copied, difference, logits_of
from tests.lm.test_transformer import scrambled

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

from tests.lm import families_table  # noqa: E402
from tests.lm.families_table import ROWS, STEPS, VARIANTS  # noqa: E402

NAMES = [f"{kind} {number}" for number, (kind, _) in enumerate(VARIANTS)]
TOKENS = np.random.default_rng(0).integers(0, 6, (3, 9))


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=NAMES)
def test_a_random_model_is_read_continued_and_written_as_by_transformers(tmp_path, number):
    measured = families_table.measure(*VARIANTS[number], tmp_path)
    assert max(measured.logits, measured.padded, measured.reward) < 1e-5
    assert (measured.greedy, measured.padded_greedy) == (ROWS * STEPS, ROWS * STEPS)
    assert measured.saved


def read_by_transformers(folder, auto, tokens):
    model, info = auto.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


@every_fresh
@pytest.mark.parametrize("outputs", [7, 1])
def test_transformers_opens_what_we_save(tmp_path, name, outputs):
    shape = dataclasses.replace(FRESH[name][0], start=False)
    params = scrambled(transformer.init(shape, outputs, jax.random.key(0)))
    config = architectures.config_of(shape, positions=9) | {"pad_token_id": 6}
    save.save(tmp_path / "new", config, params, shard_bytes=4000)
    auto = hf.AutoModelForCausalLM if outputs == 7 else hf.AutoModelForSequenceClassification
    theirs = read_by_transformers(tmp_path / "new", auto, TOKENS)
    ours = logits_of(shape, params, TOKENS)
    assert difference(ours if outputs == 7 else ours[:, -1], theirs) < ACCURACY


@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_head_that_is_called_tied_is_read_as_by_transformers(tmp_path, tied):
    folder = copied("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load.open_checkpoint(folder)
    params, theirs = load.load(checkpoint), read_by_transformers(folder, hf.AutoModelForCausalLM, TOKENS)
    assert difference(logits_of(checkpoint.shape, params, TOKENS), theirs) < ACCURACY
    save.save(tmp_path / "again", checkpoint, params)
    again = read_by_transformers(tmp_path / "again", hf.AutoModelForCausalLM, TOKENS)
    np.testing.assert_array_equal(again, theirs)


@pytest.mark.parametrize("outputs", [None, 1])
def test_transformers_opens_a_body_that_was_saved_alone_with_a_head(tmp_path, outputs):
    model = hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model("gpt2", **families_table.SMALLER))
    model.transformer.save_pretrained(tmp_path / "body")
    checkpoint = load.open_checkpoint(tmp_path / "body")
    assert checkpoint.is_bare
    params = load.load(checkpoint, outputs=outputs)
    params = scrambled(params) if outputs else params
    save.save(tmp_path / "ours", checkpoint._replace(config=checkpoint.config | {"pad_token_id": 40}), params)
    auto = hf.AutoModelForSequenceClassification if outputs else hf.AutoModelForCausalLM
    theirs = read_by_transformers(tmp_path / "ours", auto, TOKENS)
    ours = logits_of(checkpoint.shape, params, TOKENS)
    assert difference(ours[:, -1] if outputs else ours, theirs) < ACCURACY
