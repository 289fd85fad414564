"""The configurations that Hugging Face writes, as shapes and back: what ``families`` lists, and nothing in silence.

A field of config.json that this does not know refuses the model, because it may change its numbers.
"""

import dataclasses
import math
from typing import Any

from gvgap_jax.lm.hf import fields
from gvgap_jax.lm.hf.families import FAMILIES, Config, Family
from gvgap_jax.lm.model.shape import RotaryScaling, Shape
from gvgap_jax.runtime.messages import first_few

SIZES = {
    "vocab_size": "vocabulary",
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
}
PLAIN = SIZES | {  # fields that are fields of a shape
    "num_key_value_heads": "key_value_heads",
    "head_dim": "head_width",
    "rms_norm_eps": "epsilon",
    "use_parallel_residual": "parallel",
    "tie_word_embeddings": "tied",
    "query_pre_attn_scalar": "score_divisor",
    "attn_logit_softcapping": "score_cap",
    "final_logit_softcapping": "logit_cap",
    "n_positions": "positions",
}
MAY_BE_NULL = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")  # elsewhere null is no value
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}
BIASES = {(True, True): "all", (True, False): "attention", (False, True): "feed_forward", (False, False): "none"}
FULL, SLIDING = "full_attention", "sliding_attention"


def shape_of(config: Config) -> Shape:
    """The shape of a model, with activations in float32 and without a start token; ``dataclasses.replace`` changes it.

    Rotary embeddings may be described by ``rope_parameters`` or by the fields before it.

    Raises:
      ValueError: another family, a field that is not known, a part that is not here, or a value of another type or out
        of its range.
    """
    fields.check(config)
    kind = config.get("model_type")
    if kind == "gemma3":
        raise ValueError(
            "config.json: model_type 'gemma3' is a model of text and images; its text alone is 'gemma3_text', which "
            "transformers saves as Gemma3ForCausalLM."
        )
    if kind not in FAMILIES:
        raise ValueError(f"config.json: model_type {kind!r} is not here; there are {', '.join(FAMILIES)}.")
    family = FAMILIES[kind]
    if config.get("quantization_config"):
        raise ValueError(
            "config.json: quantised weights are not here; load a checkpoint of float32, float16 or bfloat16."
        )
    known = [_own(family, name) for name in (*SIZES, *family.absent, "partial_rotary_factor")]
    fields.refuse_unknown(kind, config, known, family.unread)
    given = _given(family, config)
    if kind == "gpt2" and given.get("intermediate_size") is None and given.get("hidden_size") is not None:
        given["intermediate_size"] = 4 * given["hidden_size"]
    missing = [_own(family, name) for name in SIZES if given.get(name) is None]
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}, which decide the shape of a {kind} model.")
    heads, width = given["num_attention_heads"], given["hidden_size"]
    if width % heads and given.get("head_dim") is None:
        names = (_own(family, "hidden_size"), _own(family, "num_attention_heads"))
        raise ValueError(f"config.json: {names[0]} must be a multiple of {names[1]}, got {width} and {heads}.")
    given |= {"num_key_value_heads": heads} if given.get("num_key_value_heads") is None else {}
    given |= {"head_dim": width // heads} if given.get("head_dim") is None else {}
    sizes: dict[str, Any] = {place: given[name] for name, place in PLAIN.items() if name in given}
    sizes |= {name: float(sizes[name]) for name in ("score_divisor", "score_cap", "logit_cap") if sizes.get(name)}
    biases = bool(given.get("attention_bias")), bool(given.get("mlp_bias"))
    given |= _rotated_layers(given)
    sizes |= {"bias": BIASES[biases], "start": False} | _windows(family, given)
    sizes |= _rotary(family, config, given, bool(sizes.get("windowed"))) | family.fixed
    sizes["unrotated"] = tuple(layer for layer, is_rotated in enumerate(given["no_rope_layers"]) if not is_rotated)
    activation, usual = _activation(family, given), _usual(family.fixed["gated"])
    sizes["activation"] = None if activation == usual else activation
    if not given.get("scale_attn_weights", True):
        sizes["score_divisor"] = 1.0
    if sizes.get("score_divisor") == sizes["head_width"]:
        sizes["score_divisor"] = None  # as it is without
    return Shape(**sizes)


def _own(family: Family, name: str) -> str:
    return (family.own or {}).get(name, name)


def _given(family: Family, config: Config) -> Config:
    """The fields that the family has, by their common names; what is left out is what it is for transformers."""
    names = {_own(family, name): name for name in (*SIZES, *family.absent, "layer_types")}
    there = {names[own]: value for own, value in config.items() if own in names}
    return family.absent | {name: value for name, value in there.items() if value is not None or name in MAY_BE_NULL}


def _usual(gated: bool) -> str:
    return "silu" if gated else "gelu"


def _activation(family: Family, given: Config) -> str:
    name = given["hidden_act"]
    if name not in ACTIVATIONS:
        raise ValueError(
            f"config.json: {_own(family, 'hidden_act')} {name!r} is not here; there are {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def _rotated_layers(given: Config) -> Config:
    """``no_rope_layers``, which has 1 for each layer *with* a rotary embedding, for every family."""
    layers, interval = given["num_hidden_layers"], given.get("no_rope_layer_interval")
    rotated = given.get("no_rope_layers") or [int(not interval or (layer + 1) % interval) for layer in range(layers)]
    if len(rotated) != layers:
        raise ValueError(f"config.json: no_rope_layers must have one number for each of {layers} layers.")
    return {"no_rope_layers": rotated}


def _windows(family: Family, given: Config) -> dict[str, Any]:
    """Which layers have a window."""
    layers = given["num_hidden_layers"]
    window = given.get("sliding_window") if given.get("use_sliding_window", True) else None
    has_window = family.has_window if window is not None else None
    usual = [SLIDING if has_window and has_window(given, layer) else FULL for layer in range(layers)]
    kinds = given.get("layer_types") or usual
    other = sorted({*kinds} - {FULL, SLIDING})
    if other or len(kinds) != layers:
        what = first_few(other) if other else f"{len(kinds)} of them"
        raise ValueError(
            f"config.json: layer_types must be {FULL} or {SLIDING} for each of {layers} layers, got {what}."
        )
    if kinds != usual and (window is None or "layer_types" not in family.absent):
        raise ValueError(
            f"config.json: layer_types asks for other layers with {SLIDING} than a {family.model} model with "
            f"sliding_window {window} has."
        )
    windowed = tuple(layer for layer, kind in enumerate(kinds) if kind == SLIDING)
    return {"window": window, "windowed": windowed} if windowed else {}


def _rotary(family: Family, config: Config, given: Config, has_windows: bool) -> dict[str, Any]:
    """What decides the rotary embedding: ``rope_parameters``, or what says the same in older files."""
    if "rope_theta" not in given:
        return {}
    parameters, scaling = (dict(config.get(name) or {}) for name in ("rope_parameters", "rope_scaling"))
    local = None
    if "rope_local_base_freq" in given:  # two embeddings, and older files scale that of layers without a window
        if {*parameters} - {FULL, SLIDING}:
            raise ValueError(f"config.json: rope_parameters of a {family.model} model are {FULL} and {SLIDING}.")
        near = parameters.get(SLIDING) or {}
        _, local, slowed = _one_rotary(family, config, near, {"rope_theta": given["rope_local_base_freq"]})
        if slowed is not None:
            raise ValueError("config.json: scaled rotary embeddings in layers with a window are not here.")
        parameters = dict(parameters.get(FULL) or {}) | scaling
    share, base, slowed = _one_rotary(family, config, scaling if local is None and scaling else parameters, given)
    window_base = local if has_windows else None
    return {"rotary": share, "rotary_base": base, "rotary_scaling": slowed, "window_rotary_base": window_base}


def _one_rotary(
    family: Family, config: Config, found: Config, given: Config
) -> tuple[float, float, RotaryScaling | None]:
    """Share of a head, base and scaling."""
    if any(isinstance(value, dict) for value in found.values()):
        raise ValueError("config.json: rotary embeddings that differ between layers are not here.")
    older = {"rope_theta": given["rope_theta"]}
    older["partial_rotary_factor"] = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    found = older | {name: value for name, value in found.items() if value is not None}
    share = 1.0 if found["partial_rotary_factor"] is None else float(found["partial_rotary_factor"])
    if share != 1 and "partial_rotary_factor" not in family.absent:
        raise ValueError(f"config.json: a {family.model} model rotates whole heads, got {share} of them.")
    return share, float(found["rope_theta"]), _scaling(found, config)


def _scaling(rotary: Config, config: Config) -> RotaryScaling | None:
    kinds = {rotary[name] for name in ("rope_type", "type") if rotary.get(name)} or {"default"}
    kind = sorted(kinds)[0]
    if len(kinds) > 1 or (kind == "default" and rotary.get("factor", 1) not in (1, None)):
        found = {name: rotary[name] for name in ("rope_type", "type", "factor") if name in rotary}
        raise ValueError(
            f"config.json: {found} of rotary embeddings contradict each other; write the one that is meant."
        )
    if kind == "default":
        return None
    if kind == "linear":
        (factor,) = _numbers(rotary, "factor")
        return RotaryScaling(factor)
    context = "original_max_position_embeddings"
    rotary = {context: config.get("max_position_embeddings")} | rotary
    rotary |= {context: config[context]} if config.get(context) else {}  # outside, it goes before
    if kind == "llama3":
        factor, low, high, tokens = _numbers(rotary, "factor", "low_freq_factor", "high_freq_factor", context)
        return RotaryScaling(factor, int(tokens), low, high)
    if fields.TYPES.get(kind) is fields.LONGROPE:
        return _longrope({"factor": _ratio(config, rotary[context])} | rotary, context)
    raise ValueError(
        f"config.json: rotary embeddings of type {kind!r} are not here; there are {', '.join(fields.TYPES)}."
    )


def _ratio(config: Config, context: int | None) -> float | None:
    longest = config.get("max_position_embeddings")
    return longest / context if longest and context else None


def _longrope(rotary: Config, context: str) -> RotaryScaling:
    """The short factors of LongRoPE, which are for rows of up to as many tokens as pretraining had."""
    factor, tokens = _numbers(rotary, "factor", context)
    usual = math.sqrt(1 + math.log(factor) / math.log(tokens)) if factor > 1 else 1.0
    amplitude = usual if rotary.get("attention_factor") is None else float(rotary["attention_factor"])
    if not rotary.get("short_factor"):
        raise ValueError("config.json: rotary embeddings of type 'longrope' have no short_factor.")
    return RotaryScaling(1.0, int(tokens), divisors=tuple(map(float, rotary["short_factor"])), amplitude=amplitude)


def _numbers(rotary: Config, *names: str) -> list[float]:
    missing = [name for name in names if rotary.get(name) is None]
    if missing:
        raise ValueError(f"config.json: scaled rotary embeddings have no {', '.join(missing)}, only {sorted(rotary)}.")
    return [float(rotary[name]) for name in names]


def config_of(shape: Shape, positions: int = 2048) -> Config:
    """The configuration of a model of this shape, for texts of up to so many tokens: of the first family that has it.

    Raises:
      ValueError: the shape has a start token, which these families have not, or is none of theirs.
    """
    if shape.start:
        raise ValueError(
            "Hugging Face's models read the vocabulary and no start token: make the shape with start=False."
        )
    plain = dataclasses.replace(shape, dtype="float32", remat=False)
    for kind in FAMILIES:
        config = _written(kind, plain, positions)
        try:
            if shape_of(config) == plain:
                return config
        except ValueError:
            continue
    raise ValueError(f"no family here has models of this shape: {shape}; there are {', '.join(FAMILIES)}.")


def _written(kind: str, shape: Shape, positions: int) -> Config:
    """The configuration of a family that is nearest to the shape."""
    family = FAMILIES[kind]
    biases = next((both for both, name in BIASES.items() if name == shape.bias), (True, False))
    wanted = shape.activation or _usual(shape.gated)
    spelled = [family.absent["hidden_act"], *ACTIVATIONS]
    found: Config = {name: getattr(shape, place) for name, place in PLAIN.items()}
    found |= {
        "max_position_embeddings": positions,
        "attention_bias": biases[0],
        "mlp_bias": biases[1],
        "hidden_act": next(name for name in spelled if ACTIVATIONS[name] == wanted),
        "use_sliding_window": shape.window is not None,
        "sliding_window": shape.window,
        "max_window_layers": shape.layers,
        "layer_types": [SLIDING if layer in shape.windowed else FULL for layer in range(shape.layers)],
        "no_rope_layers": [int(layer not in shape.unrotated) for layer in range(shape.layers)],
        "query_pre_attn_scalar": int(shape.head_width if shape.score_divisor is None else shape.score_divisor),
        "scale_attn_weights": shape.score_divisor != 1,
    }
    has = [name for name in found if name in SIZES or name in family.absent or name == "max_position_embeddings"]
    config = {_own(family, name): found[name] for name in has}
    config |= {"model_type": kind, "architectures": [family.language_model]}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if "rope_theta" in family.absent:
        config |= {"rope_parameters": _written_rotary(family, shape)}
    return config


def _written_rotary(family: Family, shape: Shape) -> Config:
    """``rope_parameters``: one, or one for each kind of layer."""
    if "rope_local_base_freq" in family.absent:
        local = {"rope_type": "default", "rope_theta": shape.window_rotary_base or shape.rotary_base}
        return {FULL: _written_one(family, shape), SLIDING: local}
    return _written_one(family, shape)


def _written_one(family: Family, shape: Shape) -> Config:
    rotary: Config = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if "partial_rotary_factor" in family.absent:
        rotary["partial_rotary_factor"] = shape.rotary
    scaling = shape.rotary_scaling
    if scaling is not None:
        rotary |= {"rope_type": "linear", "factor": scaling.factor}
    if scaling is not None and scaling.context is not None:
        rotary |= {"rope_type": "llama3", "original_max_position_embeddings": scaling.context}
        rotary |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    return rotary
