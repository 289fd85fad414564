"""GPT-NeoX (Pythia), Llama and Qwen 2: the configurations that Hugging Face writes, as shapes and back."""

from typing import Any

from gvgap_jax.lm.hf import fields
from gvgap_jax.lm.model.shape import RotaryScaling, Shape

Config = dict[str, Any]
"""What a config.json holds."""

CLASSES = {"gpt_neox": "GPTNeoX", "llama": "Llama", "qwen2": "Qwen2"}
ACTIVATIONS = {"gpt_neox": ("gelu",), "llama": ("silu", "swish"), "qwen2": ("silu", "swish")}
SIZES = ("vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")


def shape_of(config: Config) -> Shape:
    """The shape of a model, with activations in float32 and without a start token; ``dataclasses.replace`` changes it.

    Rotary embeddings may be described by ``rope_parameters`` or by the fields before it.

    Raises:
      ValueError: another architecture, a part of one of these that is not here, or a value of another type or out of
        its range.
    """
    fields.check(config)
    kind = config.get("model_type")
    if kind not in CLASSES:
        raise ValueError(f"config.json: model_type {kind!r} is not here; there are {', '.join(CLASSES)}.")
    missing = [name for name in SIZES if config.get(name) is None]
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}, which decide the shape of a {kind} model.")
    _refuse_other_parts(kind, config)
    heads, width = config["num_attention_heads"], config["hidden_size"]
    if width % heads and (kind == "gpt_neox" or config.get("head_dim") is None):
        raise ValueError(
            f"config.json: hidden_size must be a multiple of num_attention_heads, got {width} and {heads}."
        )
    rotary = _rotary(kind, config)
    sizes: dict[str, Any] = {
        "vocabulary": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "hidden": config["intermediate_size"],
        "rotary": float(_or(rotary.get("partial_rotary_factor"), 1.0)),
        "rotary_base": float(rotary["rope_theta"]),
        "rotary_scaling": _scaling(rotary, config),
        "tied": bool(config.get("tie_word_embeddings")),
        "start": False,
    }
    if kind == "gpt_neox":
        return Shape(
            **sizes,
            key_value_heads=heads,
            head_width=width // heads,
            epsilon=_or(config.get("layer_norm_eps"), 1e-5),
            parallel=_or(config.get("use_parallel_residual"), True),
        )
    biased = "query_key_value" if kind == "qwen2" else "all" if config.get("attention_bias") else "none"
    return Shape(
        **sizes,
        key_value_heads=_or(config.get("num_key_value_heads"), heads),
        head_width=_or(config.get("head_dim"), width // heads),
        norm="rms",
        epsilon=_or(config.get("rms_norm_eps"), 1e-6),
        parallel=False,
        gated=True,
        bias=biased,
    )


def _or(value, otherwise):
    return otherwise if value is None else value


def _refuse_other_parts(kind: str, config: Config) -> None:
    activation = _or(config.get("hidden_act"), ACTIVATIONS[kind][0])
    if activation not in ACTIVATIONS[kind]:
        raise ValueError(
            f"config.json: hidden_act {activation!r} is not here; a {kind} model has {ACTIVATIONS[kind][0]!r}."
        )
    if config.get("quantization_config"):
        raise ValueError(
            "config.json: quantised weights are not here; load a checkpoint of float32, float16 or bfloat16."
        )
    if kind == "gpt_neox" and not _or(config.get("attention_bias"), True):
        raise ValueError("config.json: a gpt_neox model without attention_bias is not here.")
    if kind == "llama" and bool(config.get("attention_bias")) != bool(config.get("mlp_bias")):
        raise ValueError(
            "config.json: a llama model with one of attention_bias and mlp_bias is not here, only both or none."
        )
    layers = config["num_hidden_layers"]
    sliding = config.get("use_sliding_window") and _or(config.get("max_window_layers"), 28) < layers
    others = set(config.get("layer_types") or ()) - {"full_attention"}
    if others or (sliding and config.get("sliding_window")):
        raise ValueError(
            "config.json: sliding-window attention is not here; every layer must attend to all tokens before."
        )


def _rotary(kind: str, config: Config) -> Config:
    """``rope_parameters``, or what says the same in older files."""
    found = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, dict) for value in found.values()):
        raise ValueError("config.json: rotary embeddings that differ between layers are not here.")
    if kind == "gpt_neox":
        older = {
            "rope_theta": _or(config.get("rotary_emb_base"), 10_000),
            "partial_rotary_factor": _or(config.get("rotary_pct"), 0.25),
        }
    else:
        older = {
            "rope_theta": _or(config.get("rope_theta"), 10_000),
            "partial_rotary_factor": config.get("partial_rotary_factor"),
        }
    found = older | {name: value for name, value in found.items() if value is not None}
    if kind != "gpt_neox" and _or(found["partial_rotary_factor"], 1) != 1:
        raise ValueError(
            f"config.json: a {kind} model rotates whole heads, got {found['partial_rotary_factor']} of them."
        )
    return found


def _scaling(rotary: Config, config: Config) -> RotaryScaling | None:
    kind = _or(rotary.get("rope_type"), _or(rotary.get("type"), "default"))
    if kind == "default":
        return None
    if kind == "linear":
        (factor,) = _numbers(rotary, "factor")
        return RotaryScaling(factor)
    if kind == "llama3":
        context = "original_max_position_embeddings"
        rotary = {context: config.get("max_position_embeddings")} | rotary
        rotary |= {context: config[context]} if config.get(context) else {}  # outside, it goes before
        factor, low, high, tokens = _numbers(rotary, "factor", "low_freq_factor", "high_freq_factor", context)
        return RotaryScaling(factor, int(tokens), low, high)
    raise ValueError(
        f"config.json: rotary embeddings of type {kind!r} are not here; there are default, linear, llama3."
    )


def _numbers(rotary: Config, *names: str) -> list[float]:
    missing = [name for name in names if rotary.get(name) is None]
    if missing:
        raise ValueError(f"config.json: scaled rotary embeddings have no {', '.join(missing)}, only {sorted(rotary)}.")
    return [float(rotary[name]) for name in names]


def config_of(shape: Shape, positions: int = 2048) -> Config:
    """The configuration of a model of this shape, for texts of up to so many tokens.

    Raises:
      ValueError: the shape has a start token, which these architectures have not, or is none of them.
    """
    if shape.start:
        raise ValueError(
            "Hugging Face's models read the vocabulary and no start token: make the shape with start=False."
        )
    kind = _kind(shape)
    rotary: Config = {"rope_type": "default", "rope_theta": shape.rotary_base}
    scaling = shape.rotary_scaling
    if scaling is not None:
        rotary |= {"rope_type": "linear", "factor": scaling.factor}
    if scaling is not None and scaling.context is not None:
        rotary |= {"rope_type": "llama3", "original_max_position_embeddings": scaling.context}
        rotary |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    sizes = (shape.vocabulary, shape.layers, shape.width, shape.heads, shape.hidden)
    config: Config = {"model_type": kind, "architectures": [f"{CLASSES[kind]}ForCausalLM"]}
    config |= dict(zip(SIZES, sizes, strict=True))
    config |= {"max_position_embeddings": positions, "tie_word_embeddings": shape.tied, "rope_parameters": rotary}
    config |= {"hidden_act": ACTIVATIONS[kind][0]}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if kind == "gpt_neox":
        rotary["partial_rotary_factor"] = shape.rotary
        return config | {"layer_norm_eps": shape.epsilon, "use_parallel_residual": shape.parallel}
    biased = dict.fromkeys(("attention_bias", "mlp_bias"), shape.bias == "all") if kind == "llama" else {}
    heads = {"num_key_value_heads": shape.key_value_heads, "head_dim": shape.head_width}
    return config | heads | biased | {"rms_norm_eps": shape.epsilon}


def _kind(shape: Shape) -> str:
    whole = shape.width == shape.heads * shape.head_width and shape.key_value_heads == shape.heads
    if whole and not shape.gated and (shape.norm, shape.bias) == ("layer", "all"):
        return "gpt_neox"
    if shape.gated and not shape.parallel and shape.norm == "rms" and shape.rotary == 1:
        return "qwen2" if shape.bias == "query_key_value" else "llama"
    raise ValueError(f"neither GPT-NeoX nor Llama nor Qwen 2: {shape}.")
