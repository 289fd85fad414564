"""What the fields of a config.json may hold: one table of types and ranges, looked at before anything is made of them.

The upper ends are some hundred times what any model has; they keep a damaged number from becoming an allocation.
"""

import reprlib
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


def check(config: Any) -> None:
    """Refuse a configuration with a value of another type or out of its range; null is no value.

    Raises:
      ValueError: there is one; the message names the field, what it may be, and what it is.
    """
    if not isinstance(config, dict):
        raise ValueError(f"config.json must be an object, got {reprlib.repr(config)}.")
    _check(config, FIELDS, "")
    for name in ("rope_parameters", "rope_scaling"):
        _check(config.get(name) or {}, ROTARY, f"{name}.")
    for each in config.get("layer_types") or ():
        if not isinstance(each, str):
            raise ValueError(f"config.json: layer_types must be a list of texts, got {reprlib.repr(each)} in it.")


def _check(found: dict[str, Any], fields: dict[str, Number | Kind], above: str) -> None:
    for name, wanted in fields.items():
        value = found.get(name)
        if value is not None and not wanted.holds(value):
            raise ValueError(f"config.json: {above}{name} must be {wanted}, got {reprlib.repr(value)}.")
