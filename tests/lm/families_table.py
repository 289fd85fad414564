"""How far every family is from transformers, measured: the table in docs/guides/checkpoints.md.

``python -m tests.lm.families_table`` with the extra ``bench`` writes it. Models are random ones that transformers
itself makes and stores; every number in them is random, norms and biases too.
"""

import copy
import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers as hf

from gvgap_jax.lm.hf import load, save
from gvgap_jax.lm.hf.families import FAMILIES
from gvgap_jax.lm.model import classes, decode, transformer
from gvgap_jax.types import PADDING
from tests.lm.golden_checkpoints.make import randomised
from tests.lm.test_load import difference, stored_in

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "checkpoints.md"
BEGIN, END = "<!-- families -->\n", "<!-- end -->"
ROWS, LENGTH, STEPS, PAD = 3, 17, 64, 40
PADDED = np.array([0, 5, 9])  # tokens of padding before each row

NEOX = {"vocab_size": 41, "num_hidden_layers": 4, "hidden_size": 24, "intermediate_size": 28, "num_attention_heads": 3}
NEOX |= {"max_position_embeddings": 128}
SIZES = NEOX | {"num_attention_heads": 6, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0, "rope_theta": 1e3}
LLAMA3 |= {"original_max_position_embeddings": 16}
LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
LONGROPE = {"rope_type": "longrope", "rope_theta": 90.0, "short_factor": [1.5, 3.0], "long_factor": [5.0, 9.0]}
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "partial_rotary_factor": 0.5}}
NESTED = {
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    }
}
CAPS = {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0}
GEMMA = {"sliding_window": 5, "head_dim": 6, "query_pre_attn_scalar": 17, "rms_norm_eps": 1e-3}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}
SMALLER = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 41}
VARIANTS = [  # model_type, changes; at least two of every family
    ("gpt_neox", {"rope_parameters": HALF["rope_parameters"] | {"rope_type": "linear", "factor": 2.5}}),
    ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True, "layer_norm_eps": 1e-2}),
    ("gpt_neox", {"attention_bias": False, "hidden_act": "gelu_fast"}),
    ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "head_dim": 10, "hidden_act": "gelu_new", "rms_norm_eps": 1e-2}),
    ("llama", {"mlp_bias": True, "num_key_value_heads": 6}),
    ("qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("qwen2", WINDOW | {"max_window_layers": 2}),
    ("qwen3", {"tie_word_embeddings": True, "head_dim": 8}),
    ("qwen3", WINDOW | {"layer_types": LAYERS, "head_dim": 8, "attention_bias": True, "rms_norm_eps": 1e-2}),
    ("mistral", {"sliding_window": 5, "head_dim": 6}),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 3, "rms_norm_eps": 1e-2}),
    ("olmo2", {"rms_norm_eps": 1e-2}),
    ("olmo2", {"rope_parameters": LLAMA3, "attention_bias": True, "num_key_value_heads": 6}),
    ("gemma2", GEMMA | CAPS),
    ("gemma2", GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True}),
    ("gemma2", GEMMA | CAPS | {"layer_types": LAYERS, "tie_word_embeddings": False}),
    ("gemma3_text", GEMMA | NESTED | {"sliding_window_pattern": 2}),
    ("gemma3_text", GEMMA | NESTED | {"layer_types": LAYERS, "final_logit_softcapping": 4.0}),
    ("smollm3", {"no_rope_layer_interval": 2, "tie_word_embeddings": False}),
    ("smollm3", WINDOW | {"no_rope_layers": [1, 0, 1, 0], "attention_bias": True, "mlp_bias": True}),
    ("phi3", HALF | {"sliding_window": 6, "num_attention_heads": 3, "num_key_value_heads": 1}),
    ("phi3", {"tie_word_embeddings": True, "hidden_act": "relu"}),
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 100}),
    ("gpt2", SMALLER),
    ("gpt2", SMALLER | {"n_inner": 20, "scale_attn_weights": False, "activation_function": "gelu"}),
    ("gpt2", SMALLER | {"tie_word_embeddings": False, "activation_function": "relu", "layer_norm_epsilon": 1e-2}),
]


class Measured(NamedTuple):
    """One model against transformers: differences of float32, relative to the largest number.

    Attributes:
      logits, padded: of all logits, without padding and with it on the left.
      reward: of a reward model's scores, with padding.
      greedy, padded_greedy: tokens of all rows that are equal, until the first that is not.
      saved: whether loading and saving gave the same bytes, of one file, of several, and of bfloat16.
    """

    logits: float
    padded: float
    reward: float
    greedy: int
    padded_greedy: int
    saved: bool


def random_model(kind: str, changes: dict, auto, dtype=torch.float32):
    """A random model of transformers; its tokens are below ``PAD``."""
    sizes = {"gpt2": {}, "gpt_neox": NEOX}.get(kind, SIZES)
    given = copy.deepcopy(sizes | {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 0} | changes)
    config = hf.AutoConfig.for_model(kind, num_labels=1, **given)
    return randomised(auto.from_config(config, attn_implementation="eager"), seed=len(str(changes))).to(dtype)


def measure(kind: str, changes: dict, folder: Path) -> Measured:
    """One random model of a family."""
    model = random_model(kind, changes, hf.AutoModelForCausalLM)
    model.save_pretrained(folder / "theirs")
    checkpoint = load.open_checkpoint(folder / "theirs")
    params, shape = load.load(checkpoint), checkpoint.shape
    tokens = np.random.default_rng(1).integers(0, PAD, (ROWS, LENGTH))
    there = np.arange(LENGTH) >= PADDED[:, None]

    def logits(rows):
        return transformer.read(shape, params, transformer.forward(shape, params, rows)[0])

    found = {}
    how = decode.Decoding(temperature=0)
    program = jax.jit(lambda rows: (logits(rows), decode.sample(jax.random.key(0), shape, params, rows, STEPS, how)[0]))
    for name, mask in (("", np.ones_like(there)), ("padded_", there)):
        theirs, continued = _theirs(model, tokens, mask)
        ours, responses = program(jnp.asarray(np.where(mask, tokens, PADDING)))
        found[f"{name}logits"] = difference(np.asarray(ours)[mask], theirs[mask])
        found[f"{name}greedy"] = int(np.cumprod(np.asarray(responses) == continued, axis=1).sum())
    return Measured(
        found["logits"],
        found["padded_logits"],
        rewards(kind, changes, folder / "reward", tokens, there),
        found["greedy"],
        found["padded_greedy"],
        is_saved_the_same(kind, changes, folder),
    )


def _theirs(model, tokens, mask) -> tuple[np.ndarray, np.ndarray]:
    """transformers' logits, and the tokens that it generates."""
    rows, there = torch.tensor(np.where(mask, tokens, PAD)), torch.tensor(mask, dtype=torch.long)
    with torch.no_grad():
        places = (there.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=rows, attention_mask=there, position_ids=places).logits
        model.generation_config.eos_token_id = None
        whole = model.generate(rows, attention_mask=there, max_new_tokens=STEPS, do_sample=False)
    return logits.numpy(), whole[:, tokens.shape[1] :].numpy()


def rewards(kind: str, changes: dict, folder: Path, tokens, there) -> float:
    """The difference of a reward model's scores."""
    model = random_model(kind, changes, hf.AutoModelForSequenceClassification)
    model.save_pretrained(folder)
    checkpoint = load.open_checkpoint(folder)
    rows, mask = torch.tensor(np.where(there, tokens, PAD)), torch.tensor(there, dtype=torch.long)
    with torch.no_grad():
        places = (mask.cumsum(1) - 1).clamp(min=0)
        theirs = model(rows, attention_mask=mask, position_ids=places).logits.numpy()[:, 0]
    load.check_scalar_head(checkpoint)
    ours = np.where(there, tokens, PADDING)
    score = jax.jit(classes.transformer_verifier(checkpoint.shape).score)
    return difference(np.asarray(score(load.load(checkpoint, outputs=1), ours[:, :10], ours[:, 10:])), theirs)


def is_saved_the_same(kind: str, changes: dict, folder: Path) -> bool:
    """Whether files come back byte for byte: one, several, and one of bfloat16, which is also compared."""
    forms = {"one": (torch.float32, "1GB"), "several": (torch.float32, "12KB"), "bfloat16": (torch.bfloat16, "1GB")}
    for form, (dtype, most) in forms.items():
        theirs, ours = folder / form, folder / f"{form} again"
        random_model(kind, changes, hf.AutoModelForCausalLM, dtype).save_pretrained(theirs, max_shard_size=most)
        checkpoint = load.open_checkpoint(theirs)
        save.save(ours, checkpoint, load.load(checkpoint))
        config = json.loads((theirs / "config.json").read_text())
        if json.loads((ours / "config.json").read_text()) != config or _bytes(theirs) != _bytes(ours):
            return False
    return len(list((folder / "several").glob("*.safetensors"))) > 1


def _bytes(folder: Path) -> dict[str, tuple]:
    """Every tensor's type, size and bytes."""
    return {name: (str(one.dtype), one.shape, one.tobytes()) for name, one in stored_in(folder).items()}


def rows(measured: dict[str, list[Measured]]) -> list[str]:
    """The table's lines: the worst of every family's models."""
    head = ["family (`model_type`)", "logits", "with padding", "rewards", "greedy tokens", "with padding", "bytes"]
    lines = [head, ["---"] * len(head)]
    for kind in FAMILIES:
        every = measured[kind]
        worst = [max(getattr(one, name) for one in every) for name in ("logits", "padded", "reward")]
        asked = len(every) * ROWS * STEPS
        equal = [sum(getattr(one, name) for one in every) for name in ("greedy", "padded_greedy")]
        same = "equal" if all(one.saved for one in every) else "**differ**"
        lines.append([f"`{kind}`", *(f"{one:.0e}" for one in worst), *(f"{one:,} of {asked:,}" for one in equal), same])
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Measure all, and write the table into the page."""
    measured = defaultdict(list)
    for number, (kind, changes) in enumerate(VARIANTS):
        with tempfile.TemporaryDirectory() as folder:
            measured[kind].append(measure(kind, changes, Path(folder)))
            print(number, kind, measured[kind][-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    made = f"{BEGIN}{chr(10).join(rows(measured))}\n{END}"
    PAGE.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: made, text, count=1, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
