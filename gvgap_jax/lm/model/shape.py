"""What decides the program of a transformer, as one hashable value."""

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

import jax.numpy as jnp

from gvgap_jax.runtime.messages import unknown

Norm = Literal["layer", "rms", "rms_plus_one"]
Order = Literal["before", "after", "both"]
HeadNorm = Literal["none", "each", "whole"]
Bias = Literal["all", "attention", "feed_forward", "query_key_value", "none"]
Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
Dtype = Literal["float32", "bfloat16", "float64"]
NAMES = {"norm": Norm, "bias": Bias, "dtype": Dtype, "order": Order, "head_norm": HeadNorm, "activation": Activation}
NUMBERS = {  # the least and the most; None where it is the default
    "epsilon": (0.0, 1.0),
    "rotary": (0.0, 1.0),
    "rotary_base": (1.0, 1e30),
    "window_rotary_base": (1.0, 1e30),
    "score_divisor": (1e-30, 1e30),
    "score_cap": (1e-30, 1e30),
    "logit_cap": (1e-30, 1e30),
}
FIRST, FIRST_OF_SCALING = 19, 4  # fields that a repr always has; see ``_repr``


def _repr(value: Any, first: int) -> str:
    """Records are named by it: a field that came later is left out at its default."""
    every = enumerate(fields(value))
    shown = [one.name for place, one in every if place < first or getattr(value, one.name) != one.default]
    return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in shown)})"


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are slowed so that contexts longer than those of pretraining can be read; hashable.

    Attributes:
      factor: frequencies are divided by it.
      context: tokens of pretraining; None divides every frequency (arXiv 2306.15595). With it, as Llama 3.1 does
        (arXiv 2407.21783), only those that turn ``low`` times or less within the context; those that turn ``high``
        times or more are kept, and those between lie between.
      low, high: turns.
      divisors: one for each frequency instead of ``factor`` (LongRoPE, arXiv 2402.13753); they are for rows of up to
        ``context`` tokens.
      amplitude: cosines and sines are multiplied by it.

    Raises:
      ValueError: a factor, a context, a divisor or an amplitude that is not positive, a ``high`` that is not above
        ``low``, or divisors without a context.
    """

    factor: float
    context: int | None = None
    low: float = 1.0
    high: float = 4.0
    divisors: tuple[float, ...] = ()
    amplitude: float = 1.0

    def __repr__(self):
        return _repr(self, FIRST_OF_SCALING)

    def __post_init__(self):
        if not all(0 < number < math.inf for number in (self.amplitude, *self.divisors)):
            raise ValueError(
                f"RotaryScaling: amplitude and divisors must be positive, got {self.amplitude} and {self.divisors}."
            )
        if self.divisors and self.context is None:
            raise ValueError("RotaryScaling: divisors are for rows of up to so many tokens; give their context.")
        if not 0 < self.factor < math.inf or (self.context is not None and self.context < 1):
            raise ValueError(f"RotaryScaling: factor and context must be positive, got {self.factor}, {self.context}.")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"RotaryScaling: high must be above low, got {self.high} and {self.low}.")


@dataclass(frozen=True)
class Shape:
    """What decides the program of a transformer; hashable. ``neox`` and ``llama`` make the two common kinds.

    Attributes:
      vocabulary: V, tokens that are read and written.
      layers, width, heads: blocks, D, and query heads of each block.
      key_value_heads: K, divides ``heads``; fewer than ``heads`` is grouped-query attention.
      head_width: W.
      hidden: width of the feed-forward layer.
      norm: LayerNorm with bias, RMSNorm, or an RMSNorm that multiplies by 1 + scale; epsilon belongs to it.
      parallel: attention and feed-forward read the same input, and both are added to it.
      gated: hidden units are multiplied by activated others (SwiGLU); else they are activated themselves.
      bias: which linear maps of a block have one.
      rotary, rotary_base: share of a head's width that is rotated (arXiv 2104.09864), and its longest wavelength / 2pi.
      rotary_scaling: of these frequencies, or none.
      tied: the head is the transposed embedding.
      start: an embedding of its own before every prompt, so that an empty prompt can be continued.
      dtype: of activations and matrix products. Parameters, norms and logits are float32 at least.
      remat: recompute a block's activations in the backward pass instead of storing them.
      activation: of hidden units; None is SiLU where they are gated, and else exact GELU.
      order: norms before attention and feed-forward, after them (before what they give is added), or both.
      head_norm: RMSNorm of queries and keys before rotation: none, of each head, or of all heads as one vector.
      window: tokens that a token attends to in the layers ``windowed``, itself included; None is all before.
      windowed: numbers of the layers with a window.
      window_rotary_base: of these layers, without scaling; None is as in the others.
      unrotated: numbers of the layers without rotary embedding.
      score_divisor: scores of attention are divided by its root; None is ``head_width``.
      score_cap, logit_cap: c tanh(x / c) of scores, and of the vocabulary's logits, instead of x.
      scaled_embedding: embeddings are multiplied by the root of ``width``.
      positions: learned embeddings of so many positions, added to those of tokens; 0 is none.

    Raises:
      ValueError: sizes that are no integers or below 1, heads that do not divide, a rotated width that is odd, or
        another value than the attribute may have.
    """

    vocabulary: int
    layers: int = 2
    width: int = 32
    heads: int = 2
    key_value_heads: int = 2
    head_width: int = 16
    hidden: int = 128
    norm: Norm = "layer"
    epsilon: float = 1e-5
    parallel: bool = True
    gated: bool = False
    bias: Bias = "all"
    rotary: float = 0.25
    rotary_base: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    tied: bool = False
    start: bool = True
    dtype: Dtype = "float32"
    remat: bool = False
    activation: Activation | None = None
    order: Order = "before"
    head_norm: HeadNorm = "none"
    window: int | None = None
    windowed: tuple[int, ...] = ()
    window_rotary_base: float | None = None
    unrotated: tuple[int, ...] = ()
    score_divisor: float | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    scaled_embedding: bool = False
    positions: int = 0

    def __repr__(self):
        return _repr(self, FIRST)

    def __post_init__(self):
        for name in ("vocabulary", "layers", "width", "heads", "key_value_heads", "head_width", "hidden"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                raise ValueError(f"Shape: {name} must be an integer of at least 1, got {size!r}.")
        if self.heads % self.key_value_heads:
            raise ValueError(f"Shape: {self.key_value_heads} key-value heads do not divide {self.heads} heads.")
        for name, (low, high) in NUMBERS.items():
            number = getattr(self, name)
            if number is None and type(self).__dataclass_fields__[name].default is None:
                continue
            if isinstance(number, bool) or not isinstance(number, Real) or not low <= float(number) <= high:
                raise ValueError(f"Shape: {name} must be a number from {low:g} to {high:g}, got {number!r}.")
        if not isinstance(self.rotary_scaling, RotaryScaling | None):
            raise ValueError(f"Shape: rotary_scaling must be a RotaryScaling, got {self.rotary_scaling!r}.")
        for name, names in NAMES.items():
            if getattr(self, name) not in get_args(names) and not (name == "activation" and self.activation is None):
                raise ValueError(f"Shape: {unknown(name, str(getattr(self, name)), get_args(names))}")
        if self.rotated % 2:
            raise ValueError(f"Shape: the rotated width of a head must be even, got {self.rotated}; change rotary.")
        divisors = self.rotary_scaling.divisors if self.rotary_scaling else ()
        if len(divisors) not in (0, self.rotated // 2):
            raise ValueError(f"Shape: {self.rotated // 2} frequencies need as many divisors, got {len(divisors)}.")
        self._check_layers()

    def _check_layers(self) -> None:
        for name in ("windowed", "unrotated"):
            numbers = getattr(self, name)
            if not isinstance(numbers, tuple) or list(numbers) != sorted({*numbers} & {*range(self.layers)}):
                raise ValueError(
                    f"Shape: {name} must be numbers of layers below {self.layers} in order, got {numbers!r}."
                )
        counted = isinstance(self.window, Integral) and not isinstance(self.window, bool) and self.window >= 1
        if bool(self.windowed) != counted or (self.window is not None) != counted:
            raise ValueError(
                f"Shape: a window of at least 1 token and the layers that have it go together, got {self.window!r} and "
                f"{self.windowed!r}."
            )
        if self.window_rotary_base is not None and not self.windowed:
            raise ValueError("Shape: a window_rotary_base is of layers with a window, and there are none.")
        if isinstance(self.positions, bool) or not isinstance(self.positions, Integral) or self.positions < 0:
            raise ValueError(f"Shape: positions must be an integer of at least 0, got {self.positions!r}.")
        if self.parallel and self.order != "before":
            raise ValueError(f"Shape: parallel blocks have their norms before, got order={self.order!r}.")

    @property
    def rotated(self) -> int:
        """Numbers of a head that are rotated."""
        return int(self.rotary * self.head_width)

    @property
    def longest(self) -> int | None:
        """Tokens that a row may have, padding included: learned positions, or what divisors are for; None for any."""
        if self.positions:
            return self.positions
        return self.rotary_scaling.context if self.rotary_scaling and self.rotary_scaling.divisors else None

    @property
    def param_dtype(self):
        """Of the parameters: float32, or float64 if activations are."""
        return jnp.promote_types(self.dtype, jnp.float32)


def neox(vocabulary: int, layers: int = 2, width: int = 32, heads: int = 2, **changes: Any) -> Shape:
    """GPT-NeoX as Pythia uses it (arXiv 2304.01373); other fields of ``Shape`` by name."""
    sizes: dict[str, Any] = {"key_value_heads": heads, "head_width": width // heads, "hidden": 4 * width}
    return Shape(vocabulary, layers, width, heads, **(sizes | changes))


def llama(vocabulary: int, layers: int = 2, width: int = 32, heads: int = 2, **changes: Any) -> Shape:
    """Llama (arXiv 2302.13971); Qwen 2 with ``bias="query_key_value"``; other fields of ``Shape`` by name."""
    kind: dict[str, Any] = {
        "norm": "rms",
        "epsilon": 1e-6,
        "parallel": False,
        "gated": True,
        "bias": "none",
        "rotary": 1.0,
    }
    kind |= {"key_value_heads": heads, "head_width": width // heads, "hidden": 8 * width // 3}
    return Shape(vocabulary, layers, width, heads, **(kind | changes))
