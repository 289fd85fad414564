"""What an experiment's policies are made of: tables on the token tree, or transformers evaluated at all of its leaves.

An experiment that can be rerun has ``TRANSFORMER_PRESETS`` beside its ``PRESETS``, and its ``cells`` and ``run`` take
the backend as a last argument; ``on_transformer`` makes an experiment of that, with the same question and findings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal, NamedTuple

from gvgap_jax import TokenTree, policies, verifiers
from gvgap_jax.algorithms import Settings
from gvgap_jax.lm import backend as lm
from gvgap_jax.lm.shape import Shape
from gvgap_jax.tree import Levels
from gvgap_jax.types import Critic, Policy, Verifier

BackendName = Literal["tree", "transformer"]


class Backend(NamedTuple):
    """A family of classes, and how its fits are made.

    Attributes:
      policy: tree and the reference's levels of logits -> policies that start at the reference.
      verifier: tree -> reward models as expressive as the policies.
      critic: tree -> value functions of prefixes.
      settings: of the fits that are carried to their end, of every class: the same solver and selection rule.
      learning_rates: that arms of a fixed number of steps choose from when they train such a policy.
    """

    name: BackendName
    policy: Callable[[TokenTree, Levels], Policy]
    verifier: Callable[[TokenTree], Verifier]
    critic: Callable[[TokenTree], Critic]
    settings: Settings
    learning_rates: tuple[float, ...]


def _full_table(tree: TokenTree) -> Verifier:
    return verifiers.nested_interactions(tree, tree.prompt_length + tree.horizon)


TREE = Backend(
    "tree", policies.tabular, _full_table, policies.tabular_critic, Settings(), learning_rates=(0.01, 0.03, 0.1, 0.3)
)
TRANSFORMER = Backend(
    "transformer",
    lambda tree, base: lm.tree_transformer_policy(Shape(tree.vocabulary), tree, base),
    lambda tree: lm.tree_transformer_verifier(Shape(tree.vocabulary), tree),
    lambda tree: lm.tree_transformer_critic(Shape(tree.vocabulary), tree),
    Settings(solver="adam", learning_rate=3e-3, adam_steps=5000, patience=100, rl_tolerance=5e-4, rl_steps=500),
    learning_rates=(3e-4, 1e-3, 3e-3, 1e-2),
)


@dataclass(frozen=True)
class OnTransformer:
    """A function of an experiment with ``TRANSFORMER`` as its last argument.

    Equal where the function is: compiled programs are kept by it, also by workers that were sent a copy.
    """

    function: Callable

    def __call__(self, *arguments):
        return self.function(*arguments, TRANSFORMER)


def has_transformer(module) -> bool:
    """Whether an experiment can be rerun on transformers."""
    return hasattr(module, "TRANSFORMER_PRESETS")


def on_transformer(module) -> SimpleNamespace:
    """The experiment of a module on transformers; its name, in plans and folders, is another one (``named``)."""
    same = {name: getattr(module, name) for name in ("__doc__", "MEANING", "QUESTION", "Config", "findings")}
    cells, run = OnTransformer(module.cells), OnTransformer(module.run)
    return SimpleNamespace(**same, PRESETS=module.TRANSFORMER_PRESETS, cells=cells, run=run)


def named(name: str, backend: BackendName) -> str:
    """The name of an experiment on a backend: NAME, or NAME-transformer."""
    return name if backend == "tree" else f"{name}-{backend}"


def on_backend(modules: dict, backend: BackendName) -> dict:
    """Those of the experiments that there are on a backend, by their own names."""
    if backend == "tree":
        return dict(modules)
    return {name: on_transformer(module) for name, module in modules.items() if has_transformer(module)}
