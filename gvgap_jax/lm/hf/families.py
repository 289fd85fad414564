"""The families of models that are read: one table of what is particular to each.

Fields of a config.json have the names that most families give them (those of Llama); ``Family.own`` says where a
family's own differ. A new family is a new entry here; where it computes something new, ``Shape`` has a field for it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Config = dict[str, Any]
"""What a config.json holds."""


class Family(NamedTuple):
    """What is particular to one family of models.

    Attributes:
      model: how the names of transformers' classes begin.
      names: the stored tensor of every module, after ``prefix``; {} stands for the number of a layer.
      absent: its fields of config.json beside the sizes, and what each is where a config leaves it out.
      fixed: fields of ``Shape`` that all its models share.
      own: its names of fields, where they are others.
      prefix: before the names of all tensors but the heads; a body that was saved alone has none.
      heads: names of the language model's head; the first one is written.
      language, classifier: names of its classes, where they are not ``model`` and ForCausalLM or
        ForSequenceClassification.
      joined: modules whose outputs lie after one another in one tensor.
      interleaved: modules whose outputs lie head by head in one tensor.
      transposed: kernels are stored [inputs, outputs].
      has_window: (its fields, a layer's number) -> whether the layer has the window, where no ``layer_types`` say so.
      unread: further fields that change no number.
    """

    model: str
    names: dict[str, str]
    absent: Config
    fixed: dict[str, Any]
    own: dict[str, str] | None = None
    prefix: str = "model."
    heads: tuple[str, ...] = ("lm_head.weight",)
    language: str = ""
    classifier: str = ""
    joined: tuple[tuple[str, ...], ...] = ()
    interleaved: tuple[str, ...] = ()
    transposed: bool = False
    has_window: Callable[[Config, int], bool] | None = None
    unread: tuple[str, ...] = ()

    @property
    def language_model(self) -> str:
        """transformers' class of its language models."""
        return self.language or f"{self.model}ForCausalLM"

    @property
    def reward_model(self) -> str:
        """transformers' class of its reward models."""
        return self.classifier or f"{self.model}ForSequenceClassification"


_NAMES = {
    "embedding": "embed_tokens",
    "norm": "norm",
    "norm_attention": "layers.{}.input_layernorm",
    "norm_feed": "layers.{}.post_attention_layernorm",
    "query": "layers.{}.self_attn.q_proj",
    "key": "layers.{}.self_attn.k_proj",
    "value": "layers.{}.self_attn.v_proj",
    "attended": "layers.{}.self_attn.o_proj",
    "gate": "layers.{}.mlp.gate_proj",
    "up": "layers.{}.mlp.up_proj",
    "down": "layers.{}.mlp.down_proj",
}
_HEAD_NORMS = {"norm_query": "layers.{}.self_attn.q_norm", "norm_key": "layers.{}.self_attn.k_norm"}
_ABSENT = {
    "num_key_value_heads": None,  # as many as heads
    "head_dim": None,  # width / heads
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
_FIXED = {"norm": "rms", "parallel": False, "gated": True}
_BIASES = {"attention_bias": False, "mlp_bias": False}
_WINDOW = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}

GPT_NEOX = Family(
    "GPTNeoX",
    {
        "embedding": "embed_in",
        "norm": "final_layer_norm",
        "norm_attention": "layers.{}.input_layernorm",
        "norm_feed": "layers.{}.post_attention_layernorm",
        **dict.fromkeys(("query", "key", "value"), "layers.{}.attention.query_key_value"),
        "attended": "layers.{}.attention.dense",
        "up": "layers.{}.mlp.dense_h_to_4h",
        "down": "layers.{}.mlp.dense_4h_to_h",
    },
    absent={
        "hidden_act": "gelu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    fixed={"norm": "layer", "gated": False},
    own={"rms_norm_eps": "layer_norm_eps", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    prefix="gpt_neox.",
    heads=("embed_out.weight", "lm_head.weight"),
    interleaved=("query", "key", "value"),
    unread=("rope_theta", "partial_rotary_factor"),
)
LLAMA = Family("Llama", _NAMES, _ABSENT | _BIASES, _FIXED)
QWEN2 = Family(
    "Qwen2",
    _NAMES,
    _ABSENT | _WINDOW,
    _FIXED | {"bias": "query_key_value"},
    has_window=lambda config, layer: layer >= config["max_window_layers"],
)
QWEN3 = Family(
    "Qwen3",
    _NAMES | _HEAD_NORMS,
    _ABSENT | _WINDOW | {"head_dim": 128, "attention_bias": False},
    _FIXED | {"head_norm": "each"},
    has_window=QWEN2.has_window,
)
MISTRAL = Family(
    "Mistral",
    _NAMES,
    _ABSENT | {"num_key_value_heads": 8, "sliding_window": 4096},
    _FIXED,
    has_window=lambda config, layer: True,
)
OLMO2 = Family(
    "Olmo2",
    _NAMES
    | _HEAD_NORMS
    | {"norm_attended": "layers.{}.post_attention_layernorm", "norm_fed": "layers.{}.post_feedforward_layernorm"},
    _ABSENT | {"rms_norm_eps": 1e-5, "attention_bias": False},
    _FIXED | {"order": "after", "head_norm": "whole"},
)
GEMMA2 = Family(
    "Gemma2",
    _NAMES
    | {
        "norm_attended": "layers.{}.post_attention_layernorm",
        "norm_feed": "layers.{}.pre_feedforward_layernorm",
        "norm_fed": "layers.{}.post_feedforward_layernorm",
    },
    _ABSENT
    | {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    _FIXED | {"norm": "rms_plus_one", "order": "both", "scaled_embedding": True},
    own={"hidden_act": "hidden_activation"},
    has_window=lambda config, layer: layer % 2 == 0,
    unread=("hidden_act",),
)
GEMMA3 = GEMMA2._replace(
    model="Gemma3",
    classifier="Gemma3TextForSequenceClassification",
    names=GEMMA2.names | _HEAD_NORMS,
    absent={name: value for name, value in GEMMA2.absent.items() if name != "attn_logit_softcapping"}
    | {
        "final_logit_softcapping": None,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
    },
    fixed=GEMMA2.fixed | {"head_norm": "each"},
    has_window=lambda config, layer: (layer + 1) % config["sliding_window_pattern"] != 0,
)
SMOLLM3 = Family(
    "SmolLM3",
    _NAMES,
    _ABSENT
    | _BIASES
    | {
        "num_key_value_heads": 4,
        "rope_theta": 2_000_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
    },
    _FIXED,
    has_window=lambda config, layer: not config["no_rope_layers"][layer],
    unread=("max_window_layers",),
)
PHI3 = Family(
    "Phi3",
    _NAMES
    | dict.fromkeys(("query", "key", "value"), "layers.{}.self_attn.qkv_proj")
    | dict.fromkeys(("gate", "up"), "layers.{}.mlp.gate_up_proj"),
    _ABSENT | {"rms_norm_eps": 1e-5, "sliding_window": None, "partial_rotary_factor": 1.0},
    _FIXED,
    joined=(("query", "key", "value"), ("gate", "up")),
    has_window=MISTRAL.has_window,
    unread=("full_attn_mod", "interpolate_factor"),
)
GPT2 = Family(
    "GPT2",
    {
        "embedding": "wte",
        "positions": "wpe",
        "norm": "ln_f",
        "norm_attention": "h.{}.ln_1",
        "norm_feed": "h.{}.ln_2",
        **dict.fromkeys(("query", "key", "value"), "h.{}.attn.c_attn"),
        "attended": "h.{}.attn.c_proj",
        "up": "h.{}.mlp.c_fc",
        "down": "h.{}.mlp.c_proj",
    },
    {
        "hidden_act": "gelu_new",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "n_positions": 1024,
        "scale_attn_weights": True,
    },
    fixed={"norm": "layer", "parallel": False, "gated": False, "bias": "all", "rotary": 0.0},
    own={
        "num_hidden_layers": "n_layer",
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "hidden_act": "activation_function",
        "rms_norm_eps": "layer_norm_epsilon",
    },
    prefix="transformer.",
    language="GPT2LMHeadModel",
    joined=(("query", "key", "value"),),
    transposed=True,
    unread=("reorder_and_upcast_attn",),
)
FAMILIES = {
    "gpt_neox": GPT_NEOX,
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "olmo2": OLMO2,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "smollm3": SMOLLM3,
    "phi3": PHI3,
    "gpt2": GPT2,
}
