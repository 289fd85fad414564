"""Fixed encodings of prefixes and responses, and the MLP, shared by the policy and the verifier classes."""

import itertools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Params, PRNGKey


def token_contrasts(vocabulary: int) -> np.ndarray:
    """[V, V-1] functions of one token: orthonormal under the uniform law, and of mean zero."""
    full, _ = np.linalg.qr(np.column_stack([np.ones(vocabulary), np.eye(vocabulary)[:, : vocabulary - 1]]))
    return full[:, 1:] * np.sqrt(vocabulary)


def interaction_basis(tree: TokenTree, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Products of token contrasts over up to ``order`` positions of (prompt, response).

    The columns are orthonormal under the uniform law over rows. Columns that read only the prompt
    are left out: no pair of responses to the same prompt can tell them apart.

    Returns:
      features [X, L, d], and degree [d], the number of positions each column reads, ascending.

    Raises:
      ValueError: there is no interaction of that order.
    """
    length = tree.prompt_length + tree.horizon
    if not 1 <= order <= length:
        raise ValueError(f"interaction order must be between 1 and {length} (prompt and response), got {order}.")
    contrasts = token_contrasts(tree.vocabulary)
    columns, degrees = [], []
    for size in range(1, order + 1):
        for positions in itertools.combinations(range(length), size):
            if positions[-1] < tree.prompt_length:
                continue
            block = np.ones((1, 1))
            for position in range(length):
                factor = contrasts if position in positions else np.ones((tree.vocabulary, 1))
                block = np.kron(block, factor)
            columns.append(block)
            degrees += [size] * block.shape[1]
    features = np.concatenate(columns, axis=1).reshape(tree.prompts, tree.leaves, -1)
    return features, np.array(degrees)


def coefficient_degrees(tree: TokenTree) -> tuple[np.ndarray, np.ndarray]:
    """For each of the V**(P+H) products of one token function a position, in the order of a Kronecker product.

    Returns:
      degree [V**(P+H)], the number of positions it reads, and whether it reads any of the response.
    """
    length = tree.prompt_length + tree.horizon
    digits = np.stack(np.unravel_index(np.arange(tree.vocabulary**length), (tree.vocabulary,) * length), axis=-1)
    reads = digits > 0
    return np.asarray(reads.sum(axis=-1)), np.asarray(reads[:, tree.prompt_length :].any(axis=-1))


def one_hot_prefixes(tree: TokenTree, depth: int) -> np.ndarray:
    """[X, V**depth, (P+H)*V]: one-hot tokens of the prompt and of the prefix, zeros for what is yet to come."""
    length = tree.prompt_length + depth
    index = np.arange(tree.vocabulary**length)
    tokens = (index[:, None] // tree.vocabulary ** np.arange(length)[::-1]) % tree.vocabulary
    known = np.eye(tree.vocabulary)[tokens].reshape(len(index), -1)
    encoded = np.pad(known, ((0, 0), (0, (tree.horizon - depth) * tree.vocabulary)))
    return encoded.reshape(tree.prompts, tree.vocabulary**depth, -1)


class MLP(nnx.Module):
    """One hidden layer of ``width`` tanh units. The read-out starts at 0, and with it every output."""

    def __init__(self, inputs: int, width: int, outputs: int, rngs: nnx.Rngs):
        dtype = jnp.result_type(float)
        self.hidden = nnx.Linear(inputs, width, param_dtype=dtype, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.readout = nnx.Linear(width, outputs, param_dtype=dtype, kernel_init=zeros, rngs=rngs)

    def __call__(self, features):
        return self.readout(jnp.tanh(self.hidden(features)))


def mlp(inputs: int, width: int, outputs: int):
    """An ``MLP`` as two pure functions: init(key) -> params and apply(params, features) -> outputs."""
    if width < 1:
        raise ValueError(f"mlp: width must be at least 1 unit, got {width}.")
    graph = nnx.graphdef(nnx.eval_shape(lambda: MLP(inputs, width, outputs, nnx.Rngs(0))))

    def init(key: PRNGKey) -> Params:
        return nnx.to_pure_dict(nnx.state(MLP(inputs, width, outputs, nnx.Rngs(key))))

    def apply(params: Params, features):
        return nnx.merge(graph, nnx.State(params))(features)

    return init, apply
