"""What decides the program of a transformer, as one hashable value."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import jax.numpy as jnp

from gvgap_jax.runtime.messages import unknown

Norm = Literal["layer", "rms"]
Bias = Literal["all", "query_key_value", "none"]
Dtype = Literal["float32", "bfloat16", "float64"]
NUMBERS = {"epsilon": (0.0, 1.0), "rotary": (0.0, 1.0), "rotary_base": (1.0, 1e30)}  # the least and the most
NAMES = {"norm": Norm, "bias": Bias, "dtype": Dtype}


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are slowed so that contexts longer than those of pretraining can be read; hashable.

    Attributes:
      factor: frequencies are divided by it.
      context: tokens of pretraining; None divides every frequency (arXiv 2306.15595). With it, as Llama 3.1 does
        (arXiv 2407.21783), only those that turn ``low`` times or less within the context; those that turn ``high``
        times or more are kept, and those between lie between.
      low, high: turns.

    Raises:
      ValueError: a factor or a context that is not positive, or a ``high`` that is not above ``low``.
    """

    factor: float
    context: int | None = None
    low: float = 1.0
    high: float = 4.0

    def __post_init__(self):
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
      norm: LayerNorm with bias, or RMSNorm; epsilon belongs to it.
      parallel: attention and feed-forward read the same input, and both are added to it.
      gated: SwiGLU; else one hidden layer of (exact) GELU units.
      bias: which linear maps of a block have one.
      rotary, rotary_base: share of a head's width that is rotated (arXiv 2104.09864), and its longest wavelength / 2pi.
      rotary_scaling: of these frequencies, or none.
      tied: the head is the transposed embedding.
      start: an embedding of its own before every prompt, so that an empty prompt can be continued.
      dtype: of activations and matrix products. Parameters, norms and logits are float32 at least.
      remat: recompute a block's activations in the backward pass instead of storing them.

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

    def __post_init__(self):
        for name in ("vocabulary", "layers", "width", "heads", "key_value_heads", "head_width", "hidden"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
                raise ValueError(f"Shape: {name} must be an integer of at least 1, got {size!r}.")
        if self.heads % self.key_value_heads:
            raise ValueError(f"Shape: {self.key_value_heads} key-value heads do not divide {self.heads} heads.")
        for name, (low, high) in NUMBERS.items():
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Real) or not low <= float(number) <= high:
                raise ValueError(f"Shape: {name} must be a number from {low:g} to {high:g}, got {number!r}.")
        if not isinstance(self.rotary_scaling, RotaryScaling | None):
            raise ValueError(f"Shape: rotary_scaling must be a RotaryScaling, got {self.rotary_scaling!r}.")
        for name, names in NAMES.items():
            if getattr(self, name) not in get_args(names):
                raise ValueError(f"Shape: {unknown(name, str(getattr(self, name)), get_args(names))}")
        if self.rotated % 2:
            raise ValueError(f"Shape: the rotated width of a head must be even, got {self.rotated}; change rotary.")

    @property
    def rotated(self) -> int:
        """Numbers of a head that are rotated."""
        return int(self.rotary * self.head_width)

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
