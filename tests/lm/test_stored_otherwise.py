"""The same model stored in other ways, as people's files are: it is read with the same numbers, or refused by name."""

import json

import numpy as np
import pytest

from gvgap_jax.lm.hf import load, save
from tests.lm.test_load import copied, loaded, same, stored_in

TIED = "qwen2_tied"
EMBEDDING = "model.embed_tokens.weight"


def renamed(change):
    return lambda stored: {change(name): tensor for name, tensor in stored.items()}


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["whole", "a body alone"])
def test_a_tied_embedding_that_is_stored_as_the_head_alone_is_read(tmp_path, prefix):
    def change(name):
        return "lm_head.weight" if name == EMBEDDING else prefix + name.removeprefix("model.")

    checkpoint = load.open_checkpoint(copied(TIED, tmp_path / "head", renamed(change)))
    params = load.load(checkpoint)
    assert same(params, loaded(TIED)[1])
    assert checkpoint.shape.tied
    save.save(tmp_path / "saved", checkpoint, params)
    names = {prefix + name.removeprefix("model.") for name in loaded(TIED)[0].tensors}
    assert set(stored_in(tmp_path / "saved")) == names


def test_a_head_without_an_embedding_is_refused_where_they_are_not_tied(tmp_path):
    folder = copied(TIED, tmp_path / "head", renamed(lambda name: name.replace(EMBEDDING, "lm_head.weight")))
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"has no {EMBEDDING}, which its config.json asks for"):
        load.open_checkpoint(folder)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "base_model.model."])
def test_what_was_wrapped_around_a_model_is_named(tmp_path, wrapper):
    folder = copied("llama", tmp_path / "wrapped", renamed(lambda name: wrapper + name))
    words = rf"has no model\.\S+, which its config.json asks for, but {wrapper}lm_head.weight: save the model itself"
    with pytest.raises(ValueError, match=words):
        load.open_checkpoint(folder)


@pytest.mark.parametrize("name", load.ADAPTED)
def test_a_whole_model_with_an_adapter_beside_it_is_refused(tmp_path, name):
    """Transformers reads the base that the adapter names, and the adapter."""
    folder = copied("llama", tmp_path / "both")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/llama"}')
    (folder / name).write_bytes(b"")
    for opened in (load.open_checkpoint, load.shape_of):
        with pytest.raises(ValueError, match=r"holds a whole model and an adapter .* merge the adapter into its base"):
            opened(folder)


def test_numbers_that_float16_could_not_hold_are_named(tmp_path):
    def change(stored):
        with np.errstate(over="ignore"):
            return stored | {"model.norm.weight": (1e6 * stored["model.norm.weight"]).astype(np.float16)}

    checkpoint = load.open_checkpoint(copied("llama", tmp_path / "half", change))
    with pytest.raises(ValueError, match=r"model\.safetensors: model\.norm\.weight holds numbers that are not finite"):
        load.load(checkpoint)


@pytest.mark.parametrize("said", ["torch.bfloat16", "auto", "float16", None])
@pytest.mark.parametrize("field", ["torch_dtype", "dtype"])
def test_the_dtype_that_a_config_names_changes_no_number(tmp_path, field, said):
    folder = copied("llama", tmp_path / "named")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: said}))
    assert same(load.load(load.open_checkpoint(folder)), loaded("llama")[1])
