"""TRL's trainers on the first batch, again and again: the same model, loss, optimiser and precision.

Importing this file needs the extra ``bench``. The trainers take sequences of tokens; nothing is downloaded.
"""

import contextlib
import io
import tempfile
import time
from typing import Any, NamedTuple

import datasets  # pyright: ignore[reportMissingImports]
import numpy as np
import tokenizers  # pyright: ignore[reportMissingImports]
import transformers as hf  # pyright: ignore[reportMissingImports]
import trl  # pyright: ignore[reportMissingImports]

from experiments.benchmarks import hugging_face, torch_lm
from experiments.benchmarks.lm_work import BETA, CLIP, LEARNING_RATE, Given, Load, Size
from gvgap_jax.training import loop

WARM_UP = 3


class Steps(NamedTuple):
    """Seconds of every step after the warm-up, and the loss of the first in our unit."""

    seconds: np.ndarray
    first_loss: float


class _Clock(hf.TrainerCallback):
    """The time after every step."""

    def __init__(self):
        self.times, self.losses = [], []

    def on_step_end(self, args, state, control, **_):
        self.times.append(time.perf_counter())

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def train(load: Load, size: Size, given: Given, batch: Any, steps: int) -> Steps:
    """So many steps after the warm-up."""
    clock = _Clock()
    hf.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # many progress bars
        made = _trainer(load, size, given, batch, _settings(size, folder, WARM_UP + steps))
        made.remove_callback(hf.PrinterCallback)
        made.add_callback(clock)
        made.train()
    # TRL's SFT is a mean over tokens, ours a sum over those of a response.
    unit = size.horizon if load == "SFT" else 1
    return Steps(np.diff(clock.times)[WARM_UP - 1 :], unit * clock.losses[0])


def _settings(size: Size, folder: str, steps: int) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": size.batch,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": CLIP,
        "weight_decay": 0.0,
        "adam_beta2": loop.MEMORY,
        "optim": "adamw_torch_fused",
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "max_length": None,
        "use_cpu": torch_lm.DEVICE.type == "cpu",
    }


def _trainer(load: Load, size: Size, given: Given, batch: Any, settings: dict[str, Any]):
    model, words = torch_lm.model_of(load, size, given), _tokenizer(size)
    if load == "SFT":
        return trl.SFTTrainer(
            model, trl.SFTConfig(**settings), train_dataset=_demonstrations(size, batch), processing_class=words
        )
    if load == "reward model":
        return trl.RewardTrainer(
            model, trl.RewardConfig(**settings), train_dataset=_comparisons(batch), processing_class=words
        )
    return trl.DPOTrainer(
        model,
        hugging_face.language_model(size.shape, given.reference, size.length),
        trl.DPOConfig(**settings, beta=BETA, precompute_ref_log_probs=True),
        train_dataset=_conversations(batch),
        processing_class=words,
    )


def _demonstrations(size: Size, batch: Any) -> datasets.Dataset:
    masked = np.full((len(batch.prompts), size.prompt_length), -100)
    tokens = np.concatenate([batch.prompts, batch.responses], axis=1)
    labels = np.concatenate([masked, batch.responses], axis=1)
    return datasets.Dataset.from_dict({"input_ids": tokens.tolist(), "labels": labels.tolist()})


def _comparisons(batch: Any) -> datasets.Dataset:
    sides = {"chosen_ids": batch.chosen, "rejected_ids": batch.rejected}
    return datasets.Dataset.from_dict(
        {name: np.concatenate([batch.prompts, side], axis=1).tolist() for name, side in sides.items()}
    )


def _conversations(batch: Any) -> datasets.Dataset:
    """The DPO trainer takes text alone, and adds no end token to a conversation."""

    def said(role: str, rows: np.ndarray) -> list:
        return [[{"role": role, "content": "".join(f" {token}" for token in row)}] for row in rows]

    return datasets.Dataset.from_dict(
        {
            "prompt": said("user", batch.prompts),
            "chosen": said("assistant", batch.chosen),
            "rejected": said("assistant", batch.rejected),
        }
    )


def _tokenizer(size: Size) -> hf.PreTrainedTokenizerFast:
    """The trainers ask for one: a word is a token, and padding is one that the data have not."""
    words = {str(token): token for token in range(size.shape.vocabulary)} | {"pad": size.shape.vocabulary}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="pad"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    found = hf.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="pad", eos_token="pad")
    found.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return found
