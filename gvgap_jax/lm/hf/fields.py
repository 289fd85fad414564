"""What the fields of a config.json may hold: one table of types and ranges, looked at before anything is made of them.

The upper ends are some hundred times what any model has; they keep a damaged number from becoming an allocation.
And which fields change no number: all others must be known to the family, or are refused.
"""

import re
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple


class Number(NamedTuple):
    """A number in a closed range; ``whole``: an integer, and written as one."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is one; true and false are not."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return self.low <= value <= self.high  # which nothing is to NaN

    def __str__(self):
        kind = "an integer" if self.whole else "a number"
        return f"{kind} from {self.low:,} to {self.high:,}"


class Kind(NamedTuple):
    """A value of one of JSON's other types, and its name."""

    type: type
    words: str

    def holds(self, value: Any) -> bool:
        """Whether it is one."""
        return isinstance(value, self.type)

    def __str__(self):
        return self.words


COUNT = Number(1, 10**9, whole=True)
YES_OR_NO, TEXT = Kind(bool, "true or false"), Kind(str, "a text")
OBJECT, LIST = Kind(dict, "an object"), Kind(list, "a list")

ROTARY = {  # in rope_parameters or rope_scaling
    "rope_type": TEXT,
    "type": TEXT,
    "rope_theta": Number(1, 10**12),
    "partial_rotary_factor": Number(0, 1),
    "factor": Number(1e-6, 10**6),
    "low_freq_factor": Number(0, 10**6),
    "high_freq_factor": Number(0, 10**6),
    "original_max_position_embeddings": COUNT,
}
LONGROPE = {"short_factor": LIST, "long_factor": LIST, "attention_factor": Number(1e-6, 10**6)}
TYPES = {  # of rotary embeddings that are read, and what they have beside the above; su is an older name of longrope
    "default": {},
    "linear": {},
    "llama3": {},
    "longrope": LONGROPE,
    "su": LONGROPE,
}
FIELDS = {
    "model_type": TEXT,
    "vocab_size": Number(1, 10**8, whole=True),
    "num_hidden_layers": Number(1, 10**4, whole=True),
    "hidden_size": Number(1, 10**6, whole=True),
    "num_attention_heads": Number(1, 10**5, whole=True),
    "num_key_value_heads": Number(1, 10**5, whole=True),
    "head_dim": Number(1, 10**5, whole=True),
    "intermediate_size": Number(1, 10**7, whole=True),
    "max_position_embeddings": COUNT,
    "original_max_position_embeddings": COUNT,
    "hidden_act": TEXT,
    "hidden_activation": TEXT,
    "activation_function": TEXT,
    "n_embd": Number(1, 10**6, whole=True),
    "n_layer": Number(1, 10**4, whole=True),
    "n_head": Number(1, 10**5, whole=True),
    "n_inner": Number(1, 10**7, whole=True),
    "n_positions": Number(1, 10**8, whole=True),
    "layer_norm_epsilon": Number(1e-30, 1),
    "scale_attn_weights": YES_OR_NO,
    "query_pre_attn_scalar": Number(1e-6, 10**6),
    "attn_logit_softcapping": Number(1e-6, 10**9),
    "final_logit_softcapping": Number(1e-6, 10**9),
    "sliding_window_pattern": Number(1, 10**4, whole=True),
    "rope_local_base_freq": Number(1, 10**12),
    "no_rope_layers": LIST,
    "no_rope_layer_interval": Number(1, 10**4, whole=True),
    "is_causal": YES_OR_NO,
    "layer_norm_eps": Number(1e-30, 1),
    "rms_norm_eps": Number(1e-30, 1),
    "tie_word_embeddings": YES_OR_NO,
    "use_parallel_residual": YES_OR_NO,
    "attention_bias": YES_OR_NO,
    "mlp_bias": YES_OR_NO,
    "use_sliding_window": YES_OR_NO,
    "sliding_window": Number(0, 10**9, whole=True),
    "max_window_layers": Number(0, 10**9, whole=True),
    "layer_types": LIST,
    "rotary_emb_base": ROTARY["rope_theta"],
    "rotary_pct": ROTARY["partial_rotary_factor"],
    "rope_theta": ROTARY["rope_theta"],
    "partial_rotary_factor": ROTARY["partial_rotary_factor"],
    "rope_parameters": OBJECT,
    "rope_scaling": OBJECT,
}
HARMLESS = re.compile(  # fields of any family that change no number at inference, by their whole names
    "|".join(
        (
            r"_.*|architectures|model_type|auto_map|name_or_path|custom_pipelines|(torch_)?dtype|max_position_embeddings",
            r"original_max_position_embeddings|rope_scaling|rope_parameters|layer_types|quantization_config|use_cache",
            r"initializer_(range|factor)|.*dropout(_prob)?|.*_pdrop|pretraining_tp|tokenizer_class|unsloth_.*",
            r"([a-z]+_)*token(_ids?|_index)?|transformers[_.].*|max_sequence_length|model_max_length|n_ctx|prefix",
            r"(output|return)_.*|chunk_size_feed_forward|id2label|label2id|num_labels|problem_type|finetuning_task",
            r"task_specific_params|gradient_checkpointing|attn_implementation|cache_implementation|is_llama_config",
            r"is_decoder|summary_.*|use_bfloat16|torchscript|tf_legacy_loss|keys_to_ignore_at_inference|license",
            # how older files say that text is generated
            r"(max|min)(_new)?_(length|tokens)|do_sample|early_stopping|num_beams?|num_beam_groups|diversity_penalty",
            r"temperature|top_[kp]|typical_p|(repetition|length|exponential_decay_length)_penalty|bad_words_ids",
            r"(encoder_)?no_repeat_ngram_size|num_return_sequences|remove_invalid_values|(begin_)?suppress_tokens",
        )
    )
)
OFF = (None, False, "", [], {})  # values of a field that ask for nothing; 0 is equal to one of them


def refuse_unknown(kind: str, config: dict[str, Any], known: Sequence[str], unread: Sequence[str]) -> None:
    """Refuse a field that is not among those of the family, may change numbers, and asks for something.

    Raises:
      ValueError: there is one.
    """
    for name, value in config.items():
        asks = value is False if name == "is_causal" else value not in OFF
        if asks and not (name in known or name in unread or HARMLESS.fullmatch(name)):
            raise ValueError(
                f"config.json: {name} = {reprlib.repr(value)} is not known here for a {kind} model, and may change "
                "what it computes; a checkpoint with it is not read."
            )


def check(config: Any) -> None:
    """Refuse a configuration with a value of another type or out of its range; null is no value.

    Raises:
      ValueError: there is one; the message names the field, what it may be, and what it is.
    """
    if not isinstance(config, dict):
        raise ValueError(f"config.json must be an object, got {reprlib.repr(config)}.")
    _check(config, FIELDS, "")
    for name in ("rope_parameters", "rope_scaling"):
        _check_rotary(config.get(name) or {}, f"{name}.")
    for name, kind, words in (("layer_types", str, "texts"), ("no_rope_layers", int, "integers")):
        for each in config.get(name) or ():
            if not isinstance(each, kind) or isinstance(each, bool):
                raise ValueError(f"config.json: {name} must be a list of {words}, got {reprlib.repr(each)} in it.")


def _check_rotary(found: dict[str, Any], above: str) -> None:
    """One description of rotary embeddings, or one for each kind of layer."""
    kind = str(found.get("rope_type") or found.get("type") or "default")
    known = ROTARY | TYPES.get(kind, {})
    for name, value in found.items():
        if isinstance(value, dict) and name not in ROTARY:
            _check_rotary(value, f"{above}{name}.")
        elif name not in known and value is not None and kind in TYPES:
            raise ValueError(
                f"config.json: {above}{name} = {reprlib.repr(value)} is not known here, and may change what the model "
                "computes; a checkpoint with it is not read."
            )
    _check(found, known, above)
    for each in found.get("short_factor") or () if "short_factor" in known else ():
        if not Number(1e-6, 10**9).holds(each):
            raise ValueError(f"config.json: {above}short_factor must be a list of numbers, got {reprlib.repr(each)}.")


def _check(found: dict[str, Any], fields: dict[str, Number | Kind], above: str) -> None:
    for name, wanted in fields.items():
        value = found.get(name)
        if value is not None and not wanted.holds(value):
            raise ValueError(f"config.json: {above}{name} must be {wanted}, got {reprlib.repr(value)}.")
