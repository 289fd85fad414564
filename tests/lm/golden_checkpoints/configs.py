"""Configurations of the checkpoints of this folder, by their names: at least one of every family that is read."""

POSITIONS = 64
NEOX = {"model_type": "gpt_neox", "vocab_size": 41, "num_hidden_layers": 3, "hidden_size": 30, "intermediate_size": 12}
NEOX |= {"num_attention_heads": 3, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": POSITIONS}
LLAMA = NEOX | {"model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 20}
LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 24, "rope_theta": 500.0}
SMALL = {"vocab_size": 31, "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 20, "head_dim": 6}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
SMALL |= {"bos_token_id": 0, "eos_token_id": 0}
GEMMA = SMALL | {"hidden_size": 20, "sliding_window": 4, "query_pre_attn_scalar": 10, "rms_norm_eps": 1e-3}
CONFIGS = {
    "neox": NEOX | {"rotary_pct": 0.25, "rotary_emb_base": 300, "num_hidden_layers": 2},
    "neox_sequential": NEOX
    | {"hidden_size": 24, "num_attention_heads": 2, "rotary_pct": 0.5, "use_parallel_residual": False},
    "llama": LLAMA | {"rope_theta": 700.0, "head_dim": 6},
    "llama_3": LLAMA | {"rope_parameters": LLAMA3, "num_hidden_layers": 2, "head_dim": 6},
    "llama_bfloat16": LLAMA | {"rope_scaling": {"type": "linear", "factor": 3.0}, "num_hidden_layers": 2},
    "qwen2_tied": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True, "num_hidden_layers": 2},
    "qwen3": SMALL
    | {"model_type": "qwen3", "rope_theta": 100.0, "attention_bias": True}
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "mistral": SMALL | {"model_type": "mistral", "rope_theta": 100.0, "sliding_window": 4, "num_hidden_layers": 2},
    "olmo2": {name: value for name, value in SMALL.items() if name != "head_dim"}
    | {"model_type": "olmo2", "rope_theta": 100.0, "rms_norm_eps": 1e-3, "num_hidden_layers": 2},
    "gemma2": GEMMA
    | {"model_type": "gemma2", "rope_theta": 100.0, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": GEMMA
    | {"model_type": "gemma3_text", "rope_theta": 1000.0, "rope_local_base_freq": 10.0, "sliding_window_pattern": 3}
    | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "smollm3": {name: value for name, value in SMALL.items() if name != "head_dim"}
    | {"model_type": "smollm3", "rope_theta": 100.0, "no_rope_layers": [1, 0, 1]},
    "phi3": {name: value for name, value in SMALL.items() if name != "head_dim"}
    | {"model_type": "phi3", "rope_theta": 100.0, "hidden_size": 32, "partial_rotary_factor": 0.5}
    | {"sliding_window": 6, "num_hidden_layers": 2},
    "gpt2": {"model_type": "gpt2", "vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
    | {"bos_token_id": 0, "eos_token_id": 0},
}
