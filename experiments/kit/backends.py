"""What an experiment's policies are made of: tables on the token tree, or transformers evaluated at all of its leaves.

An experiment that can be rerun has ``TRANSFORMER_PRESETS`` beside its ``PRESETS``, and its ``cells`` and ``run`` take
the backend as a last argument; ``on_transformer`` makes an experiment of that, with the same question and findings.
Its settings are those of ``Config``, or of a ``TransformerConfig`` where transformers have others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

from gvgap_jax import TokenTree, policies, verifiers
from gvgap_jax.algorithms import Settings
from gvgap_jax.lm.model import classes as lm
from gvgap_jax.lm.model.classes import ReadOut
from gvgap_jax.lm.model.shape import Shape, llama
from gvgap_jax.tree import Levels
from gvgap_jax.types import Critic, TreePolicy, TreeVerifier

WIDTH = 32  # of transformers, where an experiment does not say another
BackendName = Literal["tree", "transformer"]


class Backend(NamedTuple):
    """A family of classes, and how its fits are made.

    Attributes:
      policy: tree and the reference's levels of logits (None: uniform) -> policies that start at the reference.
      verifier: tree -> reward models as expressive as the policies.
      critic: tree -> value functions of prefixes.
      network_policy: tree, width and the reference's levels of logits -> policies that are networks of that width.
      network_verifier: tree, width and read-out -> reward models that are.
      settings: of the fits that are carried to their end, of every class: the same solver and selection rule.
      learning_rates: that arms of a fixed number of steps choose from when they train such a policy.
    """

    name: BackendName
    policy: Callable[[TokenTree, Levels | None], TreePolicy]
    verifier: Callable[[TokenTree], TreeVerifier]
    critic: Callable[[TokenTree], Critic]
    network_policy: Callable[[TokenTree, int, Levels | None], TreePolicy]
    network_verifier: Callable[[TokenTree, int, ReadOut], TreeVerifier]
    settings: Settings
    learning_rates: tuple[float, ...]


def _full_table(tree: TokenTree) -> TreeVerifier:
    return verifiers.nested_interactions(tree, tree.prompt_length + tree.horizon)


def check_width(width: int) -> None:
    """Raise ValueError for a transformer that cannot be cut into heads of 16 numbers, or is no narrow single one."""
    if width not in (2, 4, 8) and (width < 16 or width % 16):
        raise ValueError(f"a transformer's width must be 2, 4, 8 or a multiple of 16, got {width}.")


def _shape(tree: TokenTree, width: int) -> Shape:
    check_width(width)
    return llama(tree.vocabulary, width=width, heads=max(1, width // 16))


TREE = Backend(
    "tree",
    policies.tabular,
    _full_table,
    policies.tabular_critic,
    policies.mlp_policy,
    verifiers.mlp_verifier,
    Settings(),
    learning_rates=(0.01, 0.03, 0.1, 0.3),
)
TRANSFORMER = Backend(
    "transformer",
    lambda tree, base: lm.tree_transformer_policy(_shape(tree, WIDTH), tree, base),
    lambda tree: lm.tree_transformer_verifier(_shape(tree, WIDTH), tree),
    lambda tree: lm.tree_transformer_critic(_shape(tree, WIDTH), tree),
    lambda tree, width, base: lm.tree_transformer_policy(_shape(tree, width), tree, base),
    lambda tree, width, read_out: lm.tree_transformer_verifier(_shape(tree, width), tree, read_out),
    Settings(solver="adam", learning_rate=3e-3, adam_steps=5000, patience=100, rl_tolerance=2e-3, rl_steps=500),
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


def is_of_networks(module, backend: BackendName) -> bool:
    """Whether rows of an experiment are of networks, which rounding decides: on transformers, or by ``NETWORKS``."""
    return backend == "transformer" or getattr(module, "NETWORKS", False)


def on_transformer(module) -> SimpleNamespace:
    """The experiment of a module on transformers; its name, in plans and folders, is another one (``named``)."""
    same = {name: getattr(module, name) for name in ("__doc__", "MEANING", "QUESTION", "findings", "CAPTIONS", "draw")}
    config = getattr(module, "TransformerConfig", module.Config)
    cells, run = OnTransformer(module.cells), OnTransformer(module.run)
    return SimpleNamespace(**same, Config=config, PRESETS=module.TRANSFORMER_PRESETS, cells=cells, run=run)


def named(name: str, backend: BackendName) -> str:
    """The name of an experiment on a backend: NAME, or NAME-transformer."""
    return name if backend == "tree" else f"{name}-{backend}"


def of_name(experiment: str) -> tuple[str, BackendName]:
    """The name and the backend of an experiment from what ``named`` calls it."""
    name = experiment.removesuffix("-transformer")
    return name, "tree" if name == experiment else "transformer"


def on_backend(modules: dict, backend: BackendName) -> dict:
    """Those of the experiments that there are on a backend, by their own names."""
    if backend == "tree":
        return dict(modules)
    return {name: on_transformer(module) for name, module in modules.items() if has_transformer(module)}


def everywhere(modules: dict) -> list[tuple[str, BackendName, Any]]:
    """Each of the experiments on each backend that it is there on: its name, the backend, and the experiment."""
    return [
        (name, backend, module)
        for backend in get_args(BackendName)
        for name, module in on_backend(modules, backend).items()
    ]
