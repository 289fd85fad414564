"""Writes the checkpoints of this folder with the package transformers: tiny models of awkward shapes, and their logits.

``python -m tests.golden_checkpoints.make`` with the extra ``bench``. Every number is random, norms and biases too.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers as hf

HERE = Path(__file__).parent
POSITIONS, ROWS, LENGTH, NEW = 64, 3, 11, 8
NEOX = {"model_type": "gpt_neox", "vocab_size": 41, "num_hidden_layers": 3, "hidden_size": 30, "intermediate_size": 12}
NEOX |= {"num_attention_heads": 3, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": POSITIONS}
LLAMA = NEOX | {"model_type": "llama", "vocab_size": 37, "hidden_size": 24, "intermediate_size": 20}
LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 24, "rope_theta": 500.0}
CONFIGS = {
    "neox": NEOX | {"rotary_pct": 0.25, "rotary_emb_base": 300, "num_hidden_layers": 2},
    "neox_sequential": NEOX
    | {"hidden_size": 24, "num_attention_heads": 2, "rotary_pct": 0.5, "use_parallel_residual": False},
    "llama": LLAMA | {"rope_theta": 700.0, "head_dim": 6},
    "llama_3": LLAMA | {"rope_parameters": LLAMA3, "num_hidden_layers": 2, "head_dim": 6},
    "llama_bfloat16": LLAMA | {"rope_scaling": {"type": "linear", "factor": 3.0}, "num_hidden_layers": 2},
    "qwen2_tied": LLAMA | {"model_type": "qwen2", "tie_word_embeddings": True, "num_hidden_layers": 2},
}


def randomised(model: hf.PreTrainedModel, seed: int) -> hf.PreTrainedModel:
    """The model with every parameter random, none 0 or 1, and with heads so sharp that positions matter."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            spread = 1.0 if "embed" in name else 0.2 if values.ndim == 1 else 1.5 * values.shape[1] ** -0.5
            values.copy_(spread * torch.randn(values.shape, generator=numbers) + ("norm.weight" in name))
    return model.eval()


def expected(model: hf.PreTrainedModel, vocabulary: int) -> dict[str, np.ndarray]:
    """Tokens, their logits, and what a greedy decoder appends."""
    tokens = torch.tensor(np.random.default_rng(0).integers(0, vocabulary, (ROWS, LENGTH)))
    with torch.no_grad():
        logits = model(input_ids=tokens).logits.float()
        whole = tokens
        for _ in range(NEW):
            whole = torch.cat([whole, model(input_ids=whole).logits[:, -1:].argmax(-1)], dim=1)
    return {
        "tokens": tokens.numpy().astype(np.uint8),
        "logits": logits.numpy(),
        "greedy": whole[:, LENGTH:].numpy().astype(np.uint8),
    }


def main() -> None:
    """Write them all."""
    for seed, (name, config) in enumerate(CONFIGS.items(), 7):
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = randomised(hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(**copy.deepcopy(config))), seed)
        if name.endswith("bfloat16"):
            model.to(torch.bfloat16)
        model.save_pretrained(folder)
        # As it was written before: the fields of older versions stay where they were.
        written = json.loads((folder / "config.json").read_text())
        if "rope_parameters" not in config:
            del written["rope_parameters"]
        (folder / "config.json").write_text(json.dumps(written | config, indent=1) + "\n")
        again = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        np.savez_compressed(folder / "expected.npz", **expected(again, config["vocab_size"]))


if __name__ == "__main__":
    main()
