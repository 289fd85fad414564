"""The same training and decoding by PyTorch and the package transformers, as a user would write them.

Importing this file needs the extra ``bench``.
"""

import itertools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy, softplus  # pyright: ignore[reportMissingImports]

from experiments.benchmarks import hugging_face
from experiments.benchmarks.lm_work import BETA, CLIP, COMPILED, EAGER, GENERATE, LEARNING_RATE, Given, Load, Side, Size
from gvgap_jax.training import loop
from gvgap_jax.types import Preferences

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Batch(NamedTuple):
    """Sequences [rows, P + H], all chosen ones before all rejected ones, and reference margins of pairs, in nats."""

    tokens: torch.Tensor
    reference_margin: torch.Tensor


def model_of(load: Load, size: Size, given: Given):
    """The peer's model with our first parameters."""
    if load == "reward model":
        return hugging_face.reward_model(size.shape, given.verifier, size.length).to(DEVICE)
    return hugging_face.language_model(size.shape, given.policy, size.length).to(DEVICE)


def batch_of(rows: Any) -> Batch:
    """Our batch as tensors."""
    paired = isinstance(rows, Preferences)
    responses = (rows.chosen, rows.rejected) if paired else (rows.responses,)
    tokens = np.concatenate([np.concatenate([rows.prompts, response], axis=1) for response in responses])
    margin = torch.tensor(rows.reference_margin if paired else [], device=DEVICE)
    return Batch(torch.tensor(tokens, dtype=torch.long, device=DEVICE), margin)


def log_probs(model, tokens: torch.Tensor, horizon: int) -> torch.Tensor:
    """log pi of the responses, the last ``horizon`` tokens of each row [rows], in nats."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False, logits_to_keep=horizon).logits
    each = cross_entropy(logits.flatten(0, 1).float(), tokens[:, -horizon:].flatten(), reduction="none")
    return -each.view(len(tokens), horizon).sum(dim=1)


def loss_of(load: Load, model, horizon: int) -> Callable[[Batch], torch.Tensor]:
    """Mean loss of a batch, in our units."""

    def sft(batch: Batch) -> torch.Tensor:
        return -log_probs(model, batch.tokens, horizon).mean()

    def reward_model(batch: Batch) -> torch.Tensor:
        chosen, rejected = model(input_ids=batch.tokens, use_cache=False).logits[:, 0].float().chunk(2)
        return softplus(rejected - chosen).mean()

    def dpo(batch: Batch) -> torch.Tensor:
        chosen, rejected = log_probs(model, batch.tokens, horizon).chunk(2)
        return softplus(-BETA * (chosen - rejected - batch.reference_margin)).mean()

    return {"SFT": sft, "reward model": reward_model, "DPO": dpo}[load]


def trainer(load: Load, size: Size, given: Given, batches: list[Any], compile: bool = False) -> Side:
    """AdamW on our batches in our order, ``size.steps`` steps a call; compiling is part of a first call."""
    model, drawn = model_of(load, size, given), itertools.cycle([batch_of(rows) for rows in batches])
    optimiser = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=(0.9, loop.MEMORY), weight_decay=0.0, fused=True
    )
    loss_function = loss_of(load, model, size.horizon)
    if compile:
        loss_function = torch.compile(loss_function)

    def step(batch: Batch) -> torch.Tensor:
        optimiser.zero_grad()
        loss = loss_function(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return loss.detach()

    def run() -> np.ndarray:
        return torch.stack([step(next(drawn)) for _ in range(size.steps)]).cpu().numpy()

    if not compile:
        return on_threads_that_suit(EAGER, run)
    started = time.perf_counter()
    loss_function(batch_of(batches[0])).backward()
    return on_threads_that_suit(COMPILED, run, time.perf_counter() - started)


def decoder(size: Size, given: Given, greedy: bool = False) -> Side:
    """``generate`` with its cache of keys and values: the same prompts and lengths."""
    model = model_of("SFT", size, given)
    prompts = torch.tensor(np.asarray(given.pairs.prompts[: size.batch]), dtype=torch.long, device=DEVICE)
    choose = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}

    @torch.inference_mode()
    def run() -> np.ndarray:
        found = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=size.horizon, use_cache=True, **choose
        )
        return found[:, size.prompt_length :].cpu().numpy()

    return on_threads_that_suit(GENERATE, run)


def on_threads_that_suit(name: str, run: Callable[[], np.ndarray], compile_seconds: float = 0.0) -> Side:
    """A side that settles on 1 or all threads, whichever finishes sooner."""
    chosen = torch.get_num_threads()

    def settle() -> None:
        nonlocal chosen
        seconds = {}
        for chosen in sorted({1, os.cpu_count() or 1}):
            run_on()
            started = time.perf_counter()
            run_on()
            seconds[chosen] = time.perf_counter() - started
        chosen = min(seconds, key=seconds.__getitem__)

    def run_on() -> np.ndarray:
        torch.set_num_threads(chosen)
        return run()

    return Side(name, run_on, compile_seconds, settle)
