"""What both sides of the transformer benchmark are given, and our side of it as functions that can be timed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax import policies  # noqa: F401
from gvgap_jax.lm import backend, decode, loop, objectives
from gvgap_jax.lm.loop import Training
from gvgap_jax.lm.objectives import Demonstrations, Objective
from gvgap_jax.lm.shape import Shape
from gvgap_jax.types import Params, Preferences
