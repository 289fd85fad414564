"""Our transformers as models of the package transformers: the same numbers in GPT-NeoX, Llama or Qwen 2.

Importing this file needs the extra ``bench``.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers as hf  # pyright: ignore[reportMissingImports]

from gvgap_jax.lm.shape import Shape
from gvgap_jax.types import Params

Weights = dict[str, np.ndarray]


def language_model(shape: Shape, params: Params, positions: int) -> hf.PreTrainedModel:
    """A causal language model with room for so many tokens that computes what ``shape`` does with ``params``.

    Raises:
      ValueError: the shape has a start token, which the peers' vocabulary has not, or is none of the three kinds.
    """
    model = hf.AutoModelForCausalLM.from_config(_config(shape, positions))
    return _filled(shape, params, model, model.get_output_embeddings())


def reward_model(shape: Shape, params: Params, positions: int) -> hf.PreTrainedModel:
    """The same with a scalar head on the last token, for rows without padding on the right; raises as above."""
    config = _config(shape, positions)
    config.num_labels = 1
    model = hf.AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = shape.vocabulary  # no token is padding
    return _filled(shape, params, model, model.score)


def _filled(shape: Shape, params: Params, model: hf.PreTrainedModel, head: torch.nn.Linear) -> hf.PreTrainedModel:
    """The model with our numbers, each in its place."""
    weights = _neox(params) if shape.parallel else _llama(params)
    dtype = getattr(torch, shape.param_dtype.name)
    model.to(dtype).base_model.load_state_dict(
        {name: torch.tensor(np.asarray(values)) for name, values in weights.items()}
    )
    if "head" in params:
        head.load_state_dict({"weight": torch.tensor(np.asarray(params["head"]).T)})
    return model.eval()  # nothing is dropped out in training either


def _config(shape: Shape, positions: int) -> hf.PreTrainedConfig:
    if shape.start:
        raise ValueError("a peer reads the vocabulary and no start token: make the shape with start=False.")
    sizes: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": positions,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    rotary = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if _is_neox(shape):
        rotary["partial_rotary_factor"] = shape.rotary
        return hf.GPTNeoXConfig(**sizes, layer_norm_eps=shape.epsilon, rope_parameters=rotary)
    if not _is_llama(shape):
        raise ValueError(f"neither GPT-NeoX nor Llama nor Qwen 2: {shape}.")
    kind = hf.Qwen2Config if shape.bias == "query_key_value" else hf.LlamaConfig
    heads = {"num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_width}
    return kind(**sizes, **heads, rms_norm_eps=shape.epsilon, rope_parameters=rotary)


def _is_neox(shape: Shape) -> bool:
    plain = shape.parallel and not shape.gated and not shape.tied and shape.key_value_heads == shape.heads
    whole = shape.width == shape.heads * shape.head_width
    return plain and whole and (shape.norm, shape.bias) == ("layer", "all")


def _is_llama(shape: Shape) -> bool:
    plain = not shape.parallel and shape.gated and shape.rotary == 1
    return plain and shape.norm == "rms" and shape.bias in ("none", "query_key_value")


def _neox(params: Params) -> Weights:
    """Queries, keys and values of GPT-NeoX are one matrix, head by head."""
    found = {"embed_in.weight": params["ends"]["embedding"]["embedding"]}
    found |= _norm("final_layer_norm", params["ends"]["norm"])
    for layer, block in enumerate(_blocks(params)):
        name = f"layers.{layer}"
        kernel, bias = (
            np.concatenate([block[head][part] for head in ("query", "key", "value")], axis=-1)
            for part in ("kernel", "bias")
        )
        joined = {"kernel": kernel.reshape(len(kernel), -1), "bias": bias.reshape(-1)}
        found |= _linear(f"{name}.attention.query_key_value", joined)
        found |= _linear(f"{name}.attention.dense", _flat(block["attended"]))
        found |= _linear(f"{name}.mlp.dense_h_to_4h", block["up"])
        found |= _linear(f"{name}.mlp.dense_4h_to_h", block["down"])
        found |= _norm(f"{name}.input_layernorm", block["norm_attention"])
        found |= _norm(f"{name}.post_attention_layernorm", block["norm_feed"])
    return found


def _llama(params: Params) -> Weights:
    found = {"embed_tokens.weight": params["ends"]["embedding"]["embedding"]}
    found |= _norm("norm", params["ends"]["norm"])
    for layer, block in enumerate(_blocks(params)):
        name = f"layers.{layer}"
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value")):
            heads = block[ours]["kernel"].shape[-2:]
            linear = {"kernel": block[ours]["kernel"].reshape(-1, np.prod(heads))}
            if "bias" in block[ours]:
                linear["bias"] = block[ours]["bias"].reshape(-1)
            found |= _linear(f"{name}.self_attn.{theirs}_proj", linear)
        found |= _linear(f"{name}.self_attn.o_proj", _flat(block["attended"]))
        for part in ("gate", "up", "down"):
            found |= _linear(f"{name}.mlp.{part}_proj", block[part])
        found |= _norm(f"{name}.input_layernorm", block["norm_attention"])
        found |= _norm(f"{name}.post_attention_layernorm", block["norm_feed"])
    return found


def _blocks(params: Params) -> list:
    """Of every layer, as numpy arrays."""
    stacked = jax.device_get(params["blocks"])
    layers = len(jax.tree.leaves(stacked)[0])
    return [jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked) for layer in range(layers)]


def _flat(attended: Mapping[str, np.ndarray]) -> Weights:
    """The map from heads [heads, W, D] as one from their concatenation."""
    return dict(attended) | {"kernel": attended["kernel"].reshape(-1, attended["kernel"].shape[-1])}


def _linear(name: str, linear: Mapping[str, np.ndarray]) -> Weights:
    found = {f"{name}.weight": linear["kernel"].T}
    return found | ({f"{name}.bias": linear["bias"]} if "bias" in linear else {})


def _norm(name: str, norm: Mapping[str, np.ndarray]) -> Weights:
    found = {f"{name}.weight": norm["scale"]}
    return found | ({f"{name}.bias": norm["bias"]} if "bias" in norm else {})
