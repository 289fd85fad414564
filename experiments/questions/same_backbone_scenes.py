"""What a row of ``same_backbone`` is about: texts, a gold reward, and a network that may have read the texts.

Texts are of ``STYLES`` hidden styles, equally frequent. Each is a Markov chain of its own for the whole of a text, and
the text goes on past the response. Logits are normal; the same draws serve every scale, so that seeds are paired.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from experiments.kit.problems import problem_of
from experiments.questions.token_tasks_families import FAMILIES, Sizes
from gvgap_jax import TokenTree, optimize
from gvgap_jax.algorithms import EXACT_MEMORY, Problem
from gvgap_jax.divergence import kl
from gvgap_jax.lm.model import nodes, transformer
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.tasks import Task, interactions
from gvgap_jax.tree import Levels
from gvgap_jax.types import Count, Number, Params, PRNGKey

STYLES = 3
SPREAD = 2.0  # standard deviation of the gold reward over responses, as in all tasks on trees
PRETRAINING, RATE = 900, 1e-2  # steps on the exact law of texts, and their first learning rate, which falls to 0
ENDS, GOES_ON, TELLS = (
    0,
    1,
    2,
)  # what follows a response in the texts: nothing, more text, or a token that tells of gold
STARTS = {  # whether the network has read texts, and what follows a response in them
    "random": (0, GOES_ON),
    "text that ends": (1, ENDS),
    "text": (1, GOES_ON),
    "text with gold": (1, TELLS),
}
INTERACTIONS, STYLE = ON_TEXTS = (
    "interactions",
    "style",
)  # gold rewards of texts; styles are what texts themselves carry


class Program(NamedTuple):
    """What decides the compiled program: family of the gold reward, responses, network, padded number of pairs."""

    family: str
    tree: TokenTree
    shape: Shape
    pairs: int


class Scene(NamedTuple):
    """What the arms of a row share.

    Attributes:
      program: sizes.
      task, problem: who judges; what learners are given.
      prompts: [X, P] tokens that the network reads for each prompt of the tree.
      start: parameters of policies, whose head is the language model's.
      base: logits that policies add theirs to: 0 where the network has read texts, else those of the texts.
      distance: KL from the law of texts to the reference policy, in nats a response.
      key: of every fit.
    """

    program: Program
    task: Task
    problem: Problem
    prompts: Int[Array, "X P"]
    start: Params
    base: Levels
    distance: Float[Array, ""]
    key: PRNGKey


class Texts(NamedTuple):
    """The exact law of texts of H + 1 tokens, and what it says of styles.

    Attributes:
      levels: log-probabilities of the next token after every prefix, [1, V**h, V] for h = 0 to H.
      style: [1, V**H] log odds, given the response, that the first style wrote it.
    """

    levels: Levels
    style: Float[Array, "1 L"]


def texts(key: PRNGKey, vocabulary: int, horizon: int, scale: Number) -> Texts:
    """The law of texts whose chains have normal logits of standard deviation ``scale``; 0 is uniform."""
    longer = TokenTree(vocabulary, horizon + 1)
    logits = scale * jax.random.normal(key, (STYLES, vocabulary + 1, vocabulary))  # the last row starts a text

    def of_style(chain):
        after = [jnp.tile(chain[:-1], (vocabulary**depth, 1))[None] for depth in range(horizon)]
        return longer.leaf_log_probs((chain[-1:][None], *after))[0]

    each = jnp.stack([of_style(chain) for chain in logits])
    levels = longer.conditionals(jax.nn.logsumexp(each, axis=0, keepdims=True) - jnp.log(STYLES))
    responses = jax.nn.logsumexp(each.reshape(STYLES, -1, vocabulary), axis=-1)
    others = jax.nn.logsumexp(responses[1:], axis=0)
    return Texts(levels, (responses[0] - others)[None])


def scene_of(program: Program, cell: dict) -> Scene:
    """Task, pairs and start of a row; the seed decides each of them with a key of its own."""
    tree, shape = program.tree, program.shape
    text_key, gold_key, start_key, pairs_key, fit_key = jax.random.split(jax.random.key(cell["seed"]), 5)
    law = texts(text_key, tree.vocabulary, tree.horizon, cell["text_scale"])
    prompts, reward = gold_reward(gold_key, program, cell["gold_order"], law.style)
    levels = tuple(jnp.tile(level, (tree.prompts, 1, 1)) for level in law.levels)
    first = transformer.init(shape, shape.vocabulary, start_key)
    start = pretrained(first, shape, prompts, levels, reward, cell["follows"], PRETRAINING * cell["pretrained"])
    base = tuple((1 - cell["pretrained"]) * level for level in levels[:-1])
    own = nodes.logits(shape, start, nodes.states(shape, start, prompts, tree.horizon)[:-1])
    reference = tree.leaf_log_probs(tuple(one + other for one, other in zip(base, own, strict=True)))
    uniform = jnp.full(tree.prompts, 1 / tree.prompts)
    task = Task(reward, reference, uniform, cell["beta"], cell["temperature"])
    labelled = task._replace(reward=cell["informed"] * reward)  # coin flips are labels of a gold reward of zero
    # Folded as often as its number says: the first data set is that of a sweep without others.
    data_key = jax.lax.fori_loop(0, cell["replicate"], lambda number, key: jax.random.fold_in(key, number), pairs_key)
    problem = problem_of(cell, tree, labelled, data_key, program.pairs)
    distance = jnp.mean(kl(tree.leaf_log_probs(levels[:-1]), reference))
    return Scene(program, task, problem, prompts, start, base, distance, fit_key)


def gold_reward(
    key: PRNGKey, program: Program, order: Count, style: Float[Array, "1 L"]
) -> tuple[Int[Array, "X P"], Float[Array, "X L"]]:
    """Tokens of every prompt, and the gold reward, centred for each and of standard deviation ``SPREAD`` over all.

    Of token families the tree's prompts number the instances; other gold rewards have one prompt without tokens.
    """
    tree = program.tree
    if program.family not in ON_TEXTS:
        sizes = Sizes(tree.vocabulary, tree.horizon, 2, tree.prompts)
        family = FAMILIES[program.family].draw(key, sizes, 1.0)
        rows = jnp.repeat(family.prompt_table, tree.leaves, axis=0), tree.rows()[1]
        prompts, reward = family.prompt_table, family.reward(*rows).reshape(tree.prompts, tree.leaves)
    else:
        prompts = jnp.zeros((1, 0), int)
        reward = style if program.family == STYLE else interactions(jax.random.fold_in(key, order), tree, order).reward
    reward = reward - jnp.mean(reward, axis=-1, keepdims=True)
    spread = jnp.std(reward)
    return prompts, SPREAD * reward / jnp.where(spread > 0, spread, 1.0)


def pretrained(
    params: Params,
    shape: Shape,
    prompts: Int[Array, "X P"],
    levels: Levels,
    reward: Float[Array, "X L"],
    follows: Count,
    steps: Count,
) -> Params:
    """A language model of texts, by descent on its exact expected loss; ``params`` themselves where ``steps`` are 0.

    The state after a response has a target of its own only where something follows: more of the text, or a token that
    tells of the gold reward, by logits that are the reward times numbers from -1 to 1.
    """
    horizon = len(levels) - 1
    tells = jax.nn.log_softmax(reward[..., None] * jnp.linspace(-1, 1, shape.vocabulary)[None, None])
    targets = (*levels[:-1], jnp.where(follows == TELLS, tells, levels[-1]))
    weights, prefix = [], jnp.zeros((len(prompts), 1))
    for level in levels:
        weights.append(jnp.exp(prefix)[..., None])
        prefix = (prefix[..., None] + level).reshape(len(prompts), -1)
    weights[-1] = weights[-1] * (follows != ENDS)

    def loss(params: Params):
        read = nodes.logits(shape, params, nodes.states(shape, params, prompts, horizon))
        losses = [
            jnp.sum(weight * jnp.exp(target) * (target - jax.nn.log_softmax(level)))
            for weight, target, level in zip(weights, targets, read, strict=True)
        ]
        return functools.reduce(jnp.add, losses) / len(prompts)

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, PRETRAINING), b2=EXACT_MEMORY)
    return optimize.minimise(loss, params, optimiser, steps).params
