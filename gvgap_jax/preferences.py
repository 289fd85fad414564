"""Bradley-Terry pairs of a task: the exact population, and samples that are nested in n."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import linprog

from gvgap_jax.tasks import Task
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Count, HeldOut, Params, Preferences, PRNGKey, Prompts, Responses


def population(tree: TokenTree, task: Task, coverage: Float[Array, "X L"] | None = None) -> Preferences:
    """Every ordered pair of responses, weighted by its probability; the weights sum to 1.

    Both responses are drawn independently from ``coverage`` (log-probabilities, the reference by
    default) and labelled by the gold reward at the task's temperature. N = X * L**2 pairs.
    """
    coverage = task.reference if coverage is None else coverage
    first, second = (side.reshape(-1) for side in jnp.meshgrid(*2 * [jnp.arange(tree.leaves)], indexing="ij"))
    drawn = jnp.exp(coverage[:, first] + coverage[:, second]) * task.prompt_probs[:, None]
    # Twice, because the chosen response may have been drawn first or second.
    preferred = 2 * jax.nn.sigmoid((task.reward[:, first] - task.reward[:, second]) / task.temperature)
    rows = tree.prompts * tree.leaves**2
    return Preferences(
        prompts=tree.prompt_tokens(jnp.repeat(jnp.arange(tree.prompts), tree.leaves**2)),
        chosen=jnp.tile(tree.responses(first), (tree.prompts, 1)),
        rejected=jnp.tile(tree.responses(second), (tree.prompts, 1)),
        reference_margin=(task.reference[:, first] - task.reference[:, second]).reshape(rows),
        weight=(drawn * preferred).reshape(rows),
    )


def sample(
    key: PRNGKey, tree: TokenTree, task: Task, pairs: int, coverage: Float[Array, "X L"] | None = None
) -> Preferences:
    """``pairs`` independent labelled pairs: prompt, two responses from ``coverage``, and a label.

    Pair i depends on the key and on i alone, so the first n pairs of a longer draw are the draw of n
    pairs. Consumes the key.
    """
    coverage = task.reference if coverage is None else coverage
    cumulative = jnp.cumsum(jnp.exp(coverage), axis=-1)
    prompt_cumulative = jnp.cumsum(task.prompt_probs)[None]

    def pair(index):
        # One draw of four numbers: every further random call is another hash to compile and to run.
        uniform = jax.random.uniform(jax.random.fold_in(key, index), (4,))
        prompt = _inverse_cdf(prompt_cumulative, 0, uniform[0])
        first, second = (_inverse_cdf(cumulative, prompt, side) for side in uniform[1:3])
        odds = (task.reward[prompt, first] - task.reward[prompt, second]) / task.temperature
        first_wins = uniform[3] < jax.nn.sigmoid(odds)
        return prompt, jnp.where(first_wins, first, second), jnp.where(first_wins, second, first)

    prompt, chosen, rejected = jax.vmap(pair)(jnp.arange(pairs))
    return Preferences(
        prompts=tree.prompt_tokens(prompt),
        chosen=tree.responses(chosen),
        rejected=tree.responses(rejected),
        reference_margin=task.reference[prompt, chosen] - task.reference[prompt, rejected],
        weight=jnp.ones(pairs),
    )


def padded(pairs: int, smallest: int = 2048) -> int:
    """Number of pairs to draw where ``pairs`` are wanted: ``smallest`` times a power of 8, so that few programs do.

    ``split`` gives weight 0 to the pairs beyond those wanted.
    """
    size = smallest
    while size < pairs:
        size *= 8
    return size


def _inverse_cdf(cumulative: Float[Array, "rows L"], row: Count, uniform: Float[Array, ""]) -> Int[Array, ""]:
    """First entry of a row that exceeds ``uniform`` times its last one, which may be off 1 by rounding.

    By bisection, one number a step: a batch of draws would otherwise gather its rows, pairs x L numbers.
    """
    last = cumulative.shape[1] - 1
    target = uniform * cumulative[row, last]

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        beyond = cumulative[row, middle] > target
        return jnp.where(beyond, low, middle + 1), jnp.where(beyond, middle, high)

    low, _ = jax.lax.fori_loop(0, (last + 1).bit_length(), halve, (jnp.int32(0), jnp.int32(last)))
    return jnp.minimum(low, last)


def split(preferences: Preferences, pairs, held_out_every: int = 5) -> tuple[Preferences, HeldOut]:
    """Training and held-out pairs among the first ``pairs`` (may be an array): every fifth is held out.

    Both keep the shape of ``preferences``; pairs that do not belong have weight 0.
    """
    index = jnp.arange(preferences.weight.shape[0])
    inside = jnp.where(index < pairs, preferences.weight, 0.0)
    held_out = index % held_out_every == held_out_every - 1
    return (
        preferences._replace(weight=jnp.where(held_out, 0.0, inside)),
        HeldOut(preferences._replace(weight=jnp.where(held_out, inside, 0.0))),
    )


def of_both(
    model: Callable[[Params, Prompts, Responses], Float[Array, "N"]], params: Params, pairs: Preferences
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """A model's numbers for chosen and for rejected responses, from one pass."""
    prompts, responses = jnp.concatenate([pairs.prompts] * 2), jnp.concatenate([pairs.chosen, pairs.rejected])
    chosen, rejected = jnp.split(model(params, prompts, responses), 2)
    return chosen, rejected


def check_not_separable(differences: Float[Array, "N d"]) -> None:
    """Raise unless the unpenalised Bradley-Terry likelihood of a linear verifier has a finite minimiser.

    ``differences`` are features of the chosen minus features of the rejected response. The likelihood
    has no minimiser when some direction never lowers a margin and raises at least one
    (Albert and Anderson, 1984), which a linear program decides exactly.

    Raises:
      ValueError: the pairs are separable.
    """
    rows = np.asarray(differences, float)
    solution = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=(-1, 1))
    if solution.status == 0 and -solution.fun > 1e-7 * max(1.0, np.abs(rows).max()):
        raise ValueError(
            f"the Bradley-Terry fit of {rows.shape[1]} parameters to {len(rows)} pairs is separable: "
            "its likelihood grows without end. Give it a positive penalty, or more pairs."
        )
