"""Networks of one size: reward models that read responses as a whole or prefix by prefix, and policies."""

from functools import cache

from experiments.kit.backends import TREE, Backend
from gvgap_jax import TokenTree
from gvgap_jax.lm.model.classes import ReadOut

READ_OUT: dict[str, ReadOut] = {"global": "final", "local": "token_sum"}


def free_parameters(model: str, tree: TokenTree, width: int) -> int:
    """Parameters of an MLP, on a tree without prompts, less those that change no margin.

    Where there are as many margins it is ``complexity.generic_dimension``. The weights of a complete position can be
    shifted into the bias of the unit, those of a token that a prefix has not yet cannot; a constant score or logit
    changes nothing.
    """
    tokens, length = tree.vocabulary, tree.horizon
    of_a_unit, besides = {
        "global": (length * (tokens - 1) + 2, 0),
        "local": (length * tokens + 1, 0),
        "DPO": (length * tokens, tokens - 1),
    }[model]
    return of_a_unit * width + besides


def matched_width(model: str, tree: TokenTree, wanted: int) -> int:
    """Width of the MLP whose number of free parameters is nearest to the one wanted."""
    return min(range(1, wanted + 1), key=lambda width: abs(free_parameters(model, tree, width) - wanted))


@cache
def sizes(backend: Backend, tree: TokenTree, width: int) -> dict[str, tuple[int, dict[str, int]]]:
    """Each model's width beside a global one of this ``width``; its parameters and, of MLPs, the free ones.

    Kept: to count parameters takes longer than all else that a cell is made of.
    """
    made = {}
    for model in ("global", "local", "DPO"):
        own, free = width, {}
        if backend is TREE:
            own = width if model == "global" else matched_width(model, tree, free_parameters("global", tree, width))
            free = {"free_parameters": free_parameters(model, tree, own)}
        network = (
            backend.network_policy(tree, own, None)
            if model == "DPO"
            else backend.network_verifier(tree, own, READ_OUT[model])
        )
        made[model] = own, {"parameters": int(network.num_parameters)} | free
    return made
