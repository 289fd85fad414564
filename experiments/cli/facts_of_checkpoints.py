"""What is understood of a checkpoint: architecture, files, tokenizer, and an example through its template."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from gvgap_jax.lm.data import tokenizer_files
from gvgap_jax.lm.data.tokenizer import Tokenizer, open_tokenizer
from gvgap_jax.lm.hf import load, stored
from gvgap_jax.lm.hf.families import FAMILIES, Config
from gvgap_jax.lm.hf.load import ADAPTER, CONFIG, Checkpoint
from gvgap_jax.lm.hf.tensors import SCALAR_HEAD
from gvgap_jax.lm.model import transformer
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime import foreign, hub
from gvgap_jax.runtime.units import MIB, readable

SMALL = (CONFIG, ADAPTER, *load.BESIDE)  # files of a checkpoint without its weights
MARKS = (CONFIG, ADAPTER, tokenizer_files.VOCABULARY)  # files that make a folder one of a checkpoint
CONTEXT = ("max_position_embeddings", "n_positions")
TURNS = [  # an example
    {"role": "user", "content": "What is a rose?"},
    {"role": "assistant", "content": "A flower."},
    {"role": "user", "content": "And a rhino?"},
]
NORMS = {"layer": "LayerNorm", "rms": "RMSNorm", "rms_plus_one": "RMSNorm of 1 + scale"}
ORDERS = {"before": "before", "after": "after", "both": "before and after"}
HEAD_NORMS = {"none": "", "each": ", and of each query and key", "whole": ", and of all heads' queries and keys as one"}


class Opened(NamedTuple):
    """A checkpoint as far as it is here.

    Attributes:
      name: as it was given.
      config: its config.json.
      shape: of the model.
      checkpoint: with the headers of its weights; None where these are on the hub alone.
      tokenizer: or why there is none.
    """

    name: str
    config: Config
    shape: Shape
    checkpoint: Checkpoint | None
    tokenizer: Tokenizer | ValueError


def is_folder_of_one(place: Path) -> bool:
    """Whether a folder has one of a checkpoint's files."""
    return any((place / each).is_file() for each in MARKS)


def opened(name: str, revision: str | None = None) -> Opened:
    """A checkpoint, of which small files are fetched, and nothing but headers of weights is read.

    Raises:
      ValueError: it cannot be used, and why.
    """
    is_local = Path(name).is_dir()
    folder = Path(name) if is_local else hub.fetch(name, SMALL, revision)
    has_weights = any((folder / each).is_file() for each in (stored.WHOLE, stored.INDEX))  # fetched at another time
    checkpoint = load.open_checkpoint(folder) if is_local or has_weights else None
    shape = checkpoint.shape if checkpoint else load.shape_of(folder)
    try:
        tokenizer = open_tokenizer(folder)
        load.check_vocabulary(shape, tokenizer.needed)
        tokenizer = tokenizer.within(shape.vocabulary)
    except ValueError as error:
        tokenizer = error
    return Opened(name, foreign.read_object(folder / CONFIG, load.MOST_CONFIG), shape, checkpoint, tokenizer)


def facts(found: Opened) -> dict[str, str]:
    """What is known, by name."""
    return _architecture(found) | _files(found) | _text(found.tokenizer)


def _architecture(found: Opened) -> dict[str, str]:
    config, shape, kind = found.config, found.shape, found.config["model_type"]
    context = next((f"{config[name]:,} tokens" for name in CONTEXT if config.get(name)), "not said")
    hidden = f"feed-forward {shape.hidden:,} ({shape.activation or ('silu' if shape.gated else 'gelu')}"
    order = f"{ORDERS[shape.order]} attention and feed-forward{', which are in parallel' if shape.parallel else ''}"
    caps = {"scores": shape.score_cap, "logits": shape.logit_cap}
    told = {
        "family": f"{kind} ({', '.join(config.get('architectures') or [FAMILIES[kind].language_model])})",
        "parameters": _parameters(found),
        "layers": f"{shape.layers} of width {shape.width:,}, {hidden}{', gated)' if shape.gated else ')'}",
        "heads": f"{shape.heads} of width {shape.head_width}, {shape.key_value_heads} for keys and values",
        "norms": f"{NORMS[shape.norm]} {order}{HEAD_NORMS[shape.head_norm]}",
        "attention": _attention(shape),
        "positions": _positions(shape),
        "soft caps": ", ".join(f"{name} {cap:g}" for name, cap in caps.items() if cap is not None),
        "biases": {"none": ""}.get(shape.bias, shape.bias.replace("_", " ")),
        "vocabulary": f"{shape.vocabulary:,} rows; the head is {'tied' if shape.tied else 'of its own'}",
        "context": context,
    }
    return {name: text for name, text in told.items() if text}


def _parameters(found: Opened) -> str:
    shape, checkpoint = found.shape, found.checkpoint
    if checkpoint is None or _is_language_model(found):
        return f"{transformer.num_parameters(shape, shape.vocabulary):,} with the head of a language model"
    body = transformer.num_parameters(shape, 1) - shape.width
    if not load.has_scalar_head(checkpoint):
        return f"{body:,} without a head"
    return f"{body + math.prod(checkpoint.tensors[SCALAR_HEAD].size):,} with the reward head"


def _is_language_model(found: Opened) -> bool:
    heads, there = (found.checkpoint.family.heads, found.checkpoint.tensors) if found.checkpoint else ((), {})
    return found.shape.tied or any(each in there for each in heads)


def _attention(shape: Shape) -> str:
    if not shape.windowed:
        return "full in all layers"
    full = [layer for layer in range(shape.layers) if layer not in shape.windowed]
    full_first = len(full) <= len(shape.windowed)  # the fewer are listed, and the others are the others
    parts = [f"full in {_layers(full, shape.layers)}"] if full else []
    parts.insert(len(parts) * full_first, f"to {shape.window:,} tokens in {_layers(shape.windowed, shape.layers)}")
    return "; ".join(parts)


def _positions(shape: Shape) -> str:
    if shape.positions:
        return f"learned, {shape.positions:,} of them"
    if not shape.rotated:
        return "none"
    local, scaling = shape.window_rotary_base, shape.rotary_scaling
    parts = [f"rotary, {'the whole' if shape.rotary == 1 else f'{shape.rotary:.0%}'} of a head"]
    parts += [f"base {shape.rotary_base:,.0f}" + (f" ({local:,.0f} in layers with a window)" if local else "")]
    by = f"{len(scaling.divisors)} factors of LongRoPE" if scaling and scaling.divisors else ""
    parts += [f"scaled by {by or f'{scaling.factor:g}'}"] if scaling else []
    parts += [f"none in {_layers(shape.unrotated, shape.layers)}"] if shape.unrotated else []
    return ", ".join(parts)


def _layers(numbers: Sequence[int], all_layers: int) -> str:
    if len(numbers) == all_layers:
        return "all layers"
    if len(numbers) > all_layers // 2:
        return f"the other {len(numbers)} layers"
    return f"layer{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _files(found: Opened) -> dict[str, str]:
    if found.checkpoint is None:
        return {"weights": "on the hub; nothing of them was fetched"}
    tensors = found.checkpoint.tensors
    dtypes = sorted({each.dtype for each in tensors.values()})
    sizes = [jnp.dtype(each.dtype).itemsize * math.prod(each.size) for each in tensors.values()]
    size = readable(sum(sizes)) if sum(sizes) >= MIB else f"{sum(sizes):,} bytes"
    files = len({each.file for each in tensors.values()})
    heads = ["language model, tied to the embedding" if found.shape.tied else "language model"]
    heads = heads if _is_language_model(found) else []
    heads += [_reward_head(tensors[SCALAR_HEAD].size)] if SCALAR_HEAD in tensors else []
    return {
        "weights": f"{size} of {', '.join(dtypes)} in {files} file{'s' * (files > 1)}",
        "heads stored": "; ".join(heads) or "none: a body, from which a reward model can be trained, and no policy",
    }


def _reward_head(size: tuple[int, ...]) -> str:
    if size[:1] == (1,):
        return f"reward model ({SCALAR_HEAD}), which can judge"
    return f"{SCALAR_HEAD} of {size[0] if size else 'no'} labels, which no reward model has: it cannot judge"


def _text(tokenizer: Tokenizer | ValueError) -> dict[str, str]:
    if isinstance(tokenizer, ValueError):
        return {"tokenizer": str(tokenizer)}
    unknown = "none" if tokenizer.unknown is None else tokens(tokenizer, [tokenizer.unknown])
    return {
        "tokenizer": f"{tokenizer.size:,} tokens ({type(tokenizer.inner.model).__name__}); unknown token: {unknown}"
        + (f"; {len(tokenizer.beyond)} more, added ones, for which the model has no row" if tokenizer.beyond else ""),
        "start of a text": tokens(tokenizer, tokenizer.start) or "no token",
        "ends of responses": tokens(tokenizer, tokenizer.ends),
        "padding token": tokenizer.named.get("pad_token", "none") + "; not used here, where padding is masked",
        "chat template": "none" if tokenizer.chat_template is None else f"{len(tokenizer.chat_template):,} characters",
        "two turns": _example(tokenizer),
    }


def _example(tokenizer: Tokenizer) -> str:
    """Two turns as the model reads them before it answers; without a template, a text."""
    if tokenizer.chat_template is None:
        begun = tokenizer.encode(TURNS[0]["content"])
        return f"as a text: {spelled(tokenizer.inner.decode(begun, skip_special_tokens=False))}"
    try:
        return spelled(tokenizer.render(TURNS, ask=True))
    except ValueError as error:
        return str(error)


def tokens(tokenizer: Tokenizer, numbers: Sequence[int]) -> str:
    """Tokens with their numbers."""
    return ", ".join(f"{spelled(str(tokenizer.inner.id_to_token(number)))} ({number})" for number in numbers)


def spelled(text: str) -> str:
    """A text in one line."""
    return text.replace("\n", "\\n")
