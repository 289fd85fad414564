"""Our transformers as models of the package transformers: the same numbers in GPT-NeoX, Llama or Qwen 2.

Importing this file needs the extra ``bench``.
"""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers as hf  # pyright: ignore[reportMissingImports]

from gvgap_jax.lm.hf import architectures, tensors
from gvgap_jax.lm.hf.families import FAMILIES
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.types import Params


def language_model(shape: Shape, params: Params, positions: int) -> hf.PreTrainedModel:
    """A causal language model with room for so many tokens that computes what ``shape`` does with ``params``.

    Raises:
      ValueError: the shape has a start token, which the peers' vocabulary has not, or is none of the three kinds.
    """
    model = hf.AutoModelForCausalLM.from_config(_config(shape, positions))
    return _filled(shape, params, model, model.get_output_embeddings())


def reward_model(shape: Shape, params: Params, positions: int) -> hf.PreTrainedModel:
    """The same with a scalar head on the last token, for rows without padding on the right; raises as above."""
    config = _config(shape, positions)
    config.num_labels = 1
    model = hf.AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = shape.vocabulary  # no token is padding
    return _filled(shape, params, model, model.score)


def _config(shape: Shape, positions: int) -> hf.PreTrainedConfig:
    return hf.AutoConfig.for_model(**architectures.config_of(shape, positions))


def _filled(shape: Shape, params: Params, model: hf.PreTrainedModel, head: torch.nn.Linear) -> hf.PreTrainedModel:
    """The model with our numbers, each in its place."""
    found = tensors.homes(tensors.parts(FAMILIES[model.config.model_type], params, "head"), params)
    weights = {name: torch.tensor(tensors.assembled(here, _gathered)) for name, here in found.items()}
    model.to(getattr(torch, shape.param_dtype.name))
    if "head" in weights:
        head.load_state_dict({"weight": weights.pop("head")})
    prefix = f"{model.base_model_prefix}."
    model.base_model.load_state_dict({name.removeprefix(prefix): values for name, values in weights.items()})
    return model.eval()  # nothing is dropped out in training either


def _gathered(leaf, layer: int | None) -> np.ndarray:
    return np.asarray(leaf if layer is None else leaf[layer])
