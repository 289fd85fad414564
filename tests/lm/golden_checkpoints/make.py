"""Writes the checkpoints of this folder with the package transformers: tiny models of awkward shapes, and logits.

``python -m tests.lm.golden_checkpoints.make NAME ...`` with the extra ``bench``; all of them without names. Every
number is random, norms and biases too.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as hf

from tests.lm.golden_checkpoints.configs import CONFIGS

HERE = Path(__file__).parent
ROWS, LENGTH, NEW = 3, 11, 8
PADDED = (0, 3, 6)  # tokens of padding before each row


def randomised(model: hf.PreTrainedModel, seed: int) -> hf.PreTrainedModel:
    """The model with every parameter random, none 0 or 1, and with heads so sharp that positions matter."""
    numbers = torch.Generator().manual_seed(seed)
    embedding = 1 / getattr(model.get_input_embeddings(), "scalar_embed_scale", 1.0)  # what Gemma multiplies by
    with torch.no_grad():
        for name, values in model.named_parameters():
            spread = embedding if "embed" in name else 0.2 if values.ndim == 1 else 1.5 * values.shape[1] ** -0.5
            is_scale = "norm.weight" in name or (".ln_" in name and name.endswith("weight"))
            values.copy_(spread * torch.randn(values.shape, generator=numbers) + is_scale)
    return model.eval()


def expected(model: hf.PreTrainedModel, vocabulary: int) -> dict[str, np.ndarray]:
    """Tokens, their logits, and what a greedy decoder appends; the same of rows that have padding on the left."""
    tokens = torch.tensor(np.random.default_rng(0).integers(0, vocabulary, (ROWS, LENGTH)))
    there = torch.arange(LENGTH)[None] >= torch.tensor(PADDED)[:, None]
    found = {"tokens": tokens.numpy().astype(np.uint8)}
    for kind, mask in (("", torch.ones_like(tokens)), ("padded_", there.long())):
        whole = tokens
        with torch.no_grad():
            for _ in range(NEW + 1):
                places = (mask.cumsum(1) - 1).clamp(min=0)
                logits = model(input_ids=whole, attention_mask=mask, position_ids=places).logits.float()
                whole = torch.cat([whole, logits[:, -1:].argmax(-1)], dim=1)
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
                found.setdefault(f"{kind}logits", logits.numpy())
        found[f"{kind}greedy"] = whole[:, LENGTH:-1].numpy().astype(np.uint8)
    return found


def write(name: str, seed: int, folder: Path) -> hf.PreTrainedModel:
    """One checkpoint, with the fields of its configuration as they are given."""
    config = CONFIGS[name]
    model = randomised(hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(**copy.deepcopy(config))), seed)
    if name.endswith("bfloat16"):
        model.to(torch.bfloat16)
    model.save_pretrained(folder)
    # As it was written before: the fields of older versions stay where they were.
    written = json.loads((folder / "config.json").read_text())
    if "rope_parameters" not in config:
        written.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(written | config, indent=1) + "\n")
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def main(names: list[str]) -> None:
    """Write those of these names, or all."""
    for seed, (name, config) in enumerate(CONFIGS.items(), 7):
        if not names or name in names:
            shutil.rmtree(HERE / name, ignore_errors=True)
            model = write(name, seed, HERE / name)
            np.savez_compressed(HERE / name / "expected.npz", **expected(model, config["vocab_size"]))


if __name__ == "__main__":
    main(sys.argv[1:])
