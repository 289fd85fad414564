"""config.json of more models that people have, beside those of ``real_configs``: a shape, or the refusal that is right.

The sizes are theirs; numbers of tokens and of versions are left out where they are as in a relative's file.
"""

import pytest

from gvgap_jax.lm.hf import architectures
from gvgap_jax.lm.model.shape import RotaryScaling
from tests.lm import real_configs as real

LLAMA_31 = real.LLAMA_32 | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "tie_word_embeddings": False,
    "rope_scaling": real.LLAMA_32["rope_scaling"] | {"factor": 8.0},
    "transformers_version": "4.42.3",
}
LLAMA_31.pop("head_dim")
SKYWORK = LLAMA_31 | {
    "_attn_implementation_autoset": True,
    "architectures": ["LlamaForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "pad_token_id": 128256,
}
LLAMA_3 = {name: value for name, value in LLAMA_31.items() if name != "mlp_bias"} | {"rope_scaling": None}
TINY_LLAMA = real.LLAMA_2 | {
    "attention_bias": False,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rope_theta": 10000.0,
}
SMOLLM2_17 = real.SMOLLM2 | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 24,
    "rope_theta": 130000,
}
SMOLLM2_17.pop("rope_interleaved")
RM_MISTRAL = real.MISTRAL_1 | {
    "architectures": ["MistralForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "pad_token_id": 2,
}
MISTRAL_NEMO = real.MISTRAL_3 | {"hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 131072}
QWEN_25_7B = real.QWEN_25 | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}
QWEN_25_7B.pop("use_mrope")
QWEN_3_4B = real.QWEN_3 | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
}
GEMMA_3_OF_5 = {name: value for name, value in real.GEMMA_3_270M.items() if "rope" not in name} | {
    "dtype": "bfloat16",
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
OLMO_2_7B = real.OLMO_2 | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
}
SMOLLM_3_OF_5 = {name: value for name, value in real.SMOLLM_3.items() if name not in ("rope_theta", "rope_scaling")} | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0}
}
SHORT_AND_LONG = {"long_factor": [5.0] * 48, "short_factor": [1.25] * 48, "type": "longrope"}
OF_LONGROPE = RotaryScaling(1.0, 4096, divisors=(1.25,) * 48, amplitude=1.1902380714238083)
PHI_35 = real.PHI_3 | {"max_position_embeddings": 131072, "rope_scaling": SHORT_AND_LONG, "sliding_window": 262144}
PHI_3_128K = PHI_35 | {"rope_scaling": SHORT_AND_LONG | {"type": "su"}}
PHI_4_MINI = PHI_35 | {
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
PHI_4 = real.PHI_3 | {
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 16384,
    "rope_theta": 250000,
    "sliding_window": None,
    "vocab_size": 100352,
}
GPT_2_XL = real.GPT_2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}
DISTILGPT2 = real.GPT_2 | {
    "_num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "n_layer": 6,
}
PYTHIA_14 = real.PYTHIA | {
    "attention_bias": True,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "rope_scaling": None,
    "torch_dtype": "torch.float16",
}
R1_QWEN = QWEN_25_7B | {"bos_token_id": 151646, "sliding_window": 4096, "use_mrope": False, "rope_theta": 10000}
NESTED = {"text_config": {"model_type": "gemma3_text", "hidden_size": 2560}, "vision_config": {"hidden_size": 1152}}

READ = {  # fields of a shape that must be read off
    "Llama 3 8B": (LLAMA_3, {"rotary_base": 5e5, "rotary_scaling": None, "head_width": 128, "tied": False}),
    "a type that is written twice, and a factor of 1": (
        LLAMA_3 | {"rope_scaling": {"type": "default", "rope_type": "default", "factor": 1.0}},
        {"rotary_scaling": None},
    ),
    "Llama 3.1 8B": (LLAMA_31, {"rotary_scaling": RotaryScaling(8.0, 8192, 1.0, 4.0), "key_value_heads": 8}),
    "Skywork's reward model": (SKYWORK, {"rotary_scaling": RotaryScaling(8.0, 8192, 1.0, 4.0), "layers": 32}),
    "TinyLlama": (TINY_LLAMA, {"key_value_heads": 4, "head_width": 64, "hidden": 5632}),
    "SmolLM 2 1.7B": (SMOLLM2_17, {"rotary_base": 130_000.0, "tied": True}),
    "RM-Mistral": (RM_MISTRAL, {"window": 4096, "key_value_heads": 8}),
    "Mistral Nemo": (MISTRAL_NEMO, {"head_width": 128, "width": 5120, "heads": 32, "window": None}),
    "Qwen 2.5 7B": (QWEN_25_7B, {"window": None, "tied": False, "bias": "query_key_value"}),
    "R1 distilled into Qwen": (R1_QWEN, {"window": None, "rotary_base": 1e4}),
    "Qwen 3 4B": (QWEN_3_4B, {"head_width": 128, "width": 2560, "heads": 32, "tied": True}),
    "Gemma 3 270M of transformers 5": (GEMMA_3_OF_5, {"rotary_base": 1e6, "window_rotary_base": 1e4, "window": 512}),
    "OLMo 2 7B": (OLMO_2_7B, {"order": "after", "head_norm": "whole", "head_width": 128}),
    "SmolLM 3 of transformers 5": (SMOLLM_3_OF_5, {"rotary_base": 5e6, "unrotated": tuple(range(3, 36, 4))}),
    "Phi 4": (PHI_4, {"window": None, "key_value_heads": 10, "rotary_base": 250_000.0}),
    "Phi 3.5 mini": (PHI_35, {"rotary": 1.0, "rotary_scaling": OF_LONGROPE, "longest": 4096}),
    "Phi 3 mini 128k": (PHI_3_128K, {"rotary_scaling": OF_LONGROPE, "rotary": 1.0}),
    "Phi 4 mini": (PHI_4_MINI, {"rotary": 0.75, "rotary_scaling": OF_LONGROPE, "tied": True, "key_value_heads": 8}),
    "GPT-2 XL": (GPT_2_XL, {"hidden": 6400, "head_width": 64, "positions": 1024, "tied": True}),
    "DistilGPT-2": (DISTILGPT2, {"layers": 6, "hidden": 3072}),
    "Pythia 1.4B": (PYTHIA_14, {"bias": "all", "rotary": 0.25, "tied": False}),
}
REFUSED = {
    "Qwen 2.5 with YaRN": (
        QWEN_25_7B | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
        "rotary embeddings of type 'yarn' are not here",
    ),
    "a factor without a type": (  # which some meant to be linear, and transformers leaves out
        LLAMA_3 | {"rope_scaling": {"factor": 8.0}},
        r"\{'factor': 8.0\} of rotary embeddings contradict each other",
    ),
    "two types": (
        LLAMA_3 | {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}},
        r"'rope_type': 'default', 'type': 'linear', 'factor': 2.0\} of rotary embeddings contradict",
    ),
    "Gemma 3 4B": (NESTED | {"model_type": "gemma3"}, "'gemma3' is a model of text and images"),
    "Gemma": (real.GEMMA_2 | {"model_type": "gemma"}, "model_type 'gemma' is not here; there are gpt_neox, llama"),
    "OLMo": (real.OLMO_2 | {"model_type": "olmo", "clip_qkv": None}, "model_type 'olmo' is not here"),
    "Qwen 3 mixture": (QWEN_3_4B | {"model_type": "qwen3_moe"}, "model_type 'qwen3_moe' is not here"),
    "Llama in 8 bits": (
        LLAMA_31 | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "quantised weights are not here",
    ),
    "Granite's fields": (LLAMA_31 | {"logits_scaling": 8.0}, "logits_scaling = 8.0 is not known here for a llama"),
    "a reward model with a mean": (SKYWORK | {"mean": 0.3, "std": 2.1}, "mean = 0.3 is not known"),
    "GPT-2 scaled by layers": (
        real.GPT_2 | {"scale_attn_by_inverse_layer_idx": True},
        "scale_attn_by_inverse_layer_idx = True is not known",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_the_shape_of_a_published_model_is_read(name):
    config, wanted = READ[name]
    shape = architectures.shape_of(config)
    assert {field: getattr(shape, field) for field in wanted} == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_a_published_model_that_is_not_read_is_refused_by_name(name):
    config, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        architectures.shape_of(config)
