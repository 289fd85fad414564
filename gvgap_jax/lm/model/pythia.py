"""The shapes of the Pythia models (arXiv 2304.01373, table 1 and the published configurations)."""

from gvgap_jax.lm.model.shape import Shape, neox
from gvgap_jax.runtime.messages import unknown

SIZES = {  # layers, width, heads, vocabulary: rounded up to what the training's tensor split divided
    "70m": (6, 512, 8, 50_304),
    "160m": (12, 768, 12, 50_304),
    "410m": (24, 1024, 16, 50_304),
    "1b": (16, 2048, 8, 50_304),
    "1.4b": (24, 2048, 16, 50_304),
    "2.8b": (32, 2560, 32, 50_304),
    "6.9b": (32, 4096, 32, 50_432),
}


def pythia(size: str, dtype: str = "bfloat16", remat: bool = False) -> Shape:
    """The shape of EleutherAI/pythia-{size} and of its deduplicated version, without a start token.

    Raises:
      ValueError: there is no such size.
    """
    if size.lower() not in SIZES:
        raise ValueError(unknown("Pythia of size", size, SIZES))
    layers, width, heads, vocabulary = SIZES[size.lower()]
    return neox(vocabulary, layers, width, heads, start=False, dtype=dtype, remat=remat)
