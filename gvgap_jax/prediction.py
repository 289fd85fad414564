"""The law of few pairs: the regret of fits of any class to any number of pairs, from theory alone.

A fit minimises the sum over its n pairs of softplus(-m) plus the ridge w'Lw/2, where m is a pair's margin and g its
gradient in the parameters w: any verifier class, or the local rewards of a policy class (DPO). R(w) is the regret,
KL(pi_w || pi*).

*Many pairs.* Let w_L minimise the same with the sum replaced by n times its expectation, H be the Hessian of the
expected loss there, S the covariance of one pair's score, A = (n H + L)^-1 and C = n A S A. Then the fit is w_L plus
noise of covariance C (the sandwich: Huber, 1967; van der Vaart, 1998, section 5.3) and
E R = R(w_L) + tr(R'' C)/2 to leading order. S is not H where the class or the ridge keeps w_L from the gold reward.
Without either, E R = d_eff / (2n), ``complexity.effective_dimension``.

*Few pairs.* A pair pulls the fit towards its own label: with leverage q = g'Ag its margin inside of the fit is
m_in = m_out + q sigmoid(-m_in), m_out being that of the fit to all other pairs; and m_out scatters by g'Cg around the
margin of the mean fit (leave-one-out: El Karoui et al., 2013; for logistic regression Sur and Candes, 2019). So
expectations are over the pair and its scatter, the score is that of m_in and its curvature k becomes k / (1 + q k),
which makes w, A and S a fixed point. For a squared loss and Gaussian gradients it is the exact asymptotic of ridge
regression; as n grows q and the scatter vanish and it is the sandwich. Rare responses, whose q is large, cannot move a
fit by more than their pairs allow.

*Selection.* All candidates' fits are imagined on common noise, w_k = mean_k + sqrt(n) A_k S_k^(1/2) e; their expected
losses, expanded around the mean fits, plus Gaussian noise with the covariance that m held-out pairs give them, choose
one; its regret is exact. A candidate whose fixed point is not found is never chosen.

Limits: margins are linear in w within the noise; scatter and selection are Gaussian; draws (``DRAWS``), always the same
ones, leave a few per cent; a class is not expected to be multimodal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gvgap_jax import metrics, pair_moments, policies
from gvgap_jax.algorithms import PENALTIES
from gvgap_jax.features import token_contrasts
from gvgap_jax.soft_rl import soft_optimal_policy
from gvgap_jax.tasks import Known, Task
from gvgap_jax.tree import TokenTree
from gvgap_jax.types import Number, Params, TreePolicy, TreeVerifier

LEAST, MOST = 2, 30  # steps of the fixed point for each candidate, which starts where the one before it ended
PATIENT, WILD = 12, 1.0  # steps after which a fixed point whose margins still move by so many log odds is given up
INSIDE = 2  # Newton steps to a margin inside of the fit
DRAWS = 256  # imagined fits, or twice the parameters if that is more
FOLLOWING = 10  # natural-gradient steps of a second stage that is held to a class
SETTLED, NEAR = 0.3, 0.1  # log odds that the last step moves a margin: over sqrt(pairs); at most, or it is not found


@dataclass(frozen=True)
class Linearised:
    """A class as the law sees it, in coordinates that are 0 where the ridge pulls to.

    Attributes:
      leaf_scores: coordinates [d], in units of reward -> rewards of all leaves [X, L].
      gradients: coordinates [d] -> [X, L, d]; of so many ``dimension``.
    """

    leaf_scores: Callable[[Float[Array, "d"]], Float[Array, "X L"]]
    gradients: Callable[[Float[Array, "d"]], Float[Array, "X L d"]]
    dimension: int


class Prediction(NamedTuple):
    """What to expect of a fit, one number for each number of pairs [N].

    Attributes:
      regret: E KL(pi || pi*) over data sets, in nats.
      typical: the geometric mean over data sets, in nats: what a mean of log regrets estimates.
      bias: regret of the mean fits, in nats.
      variance: what the noise of the fits adds to it, in nats.
      shares: [N, K] probability that selection takes each candidate.
      penalty: [N, ...] the ridge of the candidate that is taken most often.
      trusted: the fixed point was found for the candidate of the lowest expected loss and for its neighbours.
    """

    regret: Float[Array, "N"]
    typical: Float[Array, "N"]
    bias: Float[Array, "N"]
    variance: Float[Array, "N"]
    shares: Float[Array, "N K"]
    penalty: Float[Array, "N *ridge"]
    trusted: Bool[Array, "N"]


def of_features(features: Float[Array, "X L d"]) -> Linearised:
    """Reward models linear in ``features``, whose fits start at 0."""
    return Linearised(lambda change: features @ change, lambda change: features, features.shape[-1])


def of_verifier(verifier: TreeVerifier, params: Params) -> Linearised:
    """Reward models of any class whose fits start at ``params``."""
    return _linearised(verifier.leaf_scores, params, verifier.unit)


def of_policy(policy: TreePolicy, params: Params, known: Known) -> Linearised:
    """The local rewards of a class of policies whose fits (DPO) start at ``params``."""

    def local_rewards(params: Params):
        return known.beta * (policy.leaf_log_probs(params) - known.reference)

    return _linearised(local_rewards, params, known.beta * policy.unit)


def of_all_policies(tree: TokenTree, known: Known) -> Linearised:
    """The local rewards of all policies (``policies.tabular``), as by ``of_policy``, in (V - 1)/V of the coordinates.

    A constant that is added to all logits of a prefix changes no policy, and the ridge holds it at 0.
    """
    policy = policies.tabular(tree, tree.conditionals(known.reference))
    contrasts = jnp.asarray(token_contrasts(tree.vocabulary) / tree.vocabulary**0.5, float)
    start = tuple(jnp.zeros((*shape[:-1], tree.vocabulary - 1)) for shape in tree.level_shapes)

    def local_rewards(params: Params):
        logits = tuple(level @ contrasts.T for level in params)
        return known.beta * (policy.leaf_log_probs(logits) - known.reference)

    return _linearised(local_rewards, start, known.beta * policy.unit)


def _linearised(leaf_scores: Callable[[Params], Float[Array, "X L"]], params: Params, unit: Number) -> Linearised:
    start, unravel = ravel_pytree(params)

    def of_change(change: Float[Array, "d"]):
        return leaf_scores(unravel(start + change / unit))

    return Linearised(of_change, jax.jacrev(of_change), start.size)


def predict(
    fitted: Linearised,
    task: Task,
    pairs: Float[Array, "N"],
    held_out: Float[Array, "N"],
    ridges: Float[Array, "K *ridge"] | tuple[float, ...] = PENALTIES,
    coverage: Float[Array, "X L"] | None = None,
    second_stage: Float[Array, "X L p"] | None = None,
) -> Prediction:
    """Regret of the fit that ``algorithms`` would select, for several numbers of pairs.

    Args:
      fitted: the class.
      task: who labels and who judges.
      pairs: numbers of pairs that are fitted; need not be whole.
      held_out: numbers of pairs that candidates are selected on.
      ridges: the candidates, the strongest first: penalties [K] in pairs, as in ``Settings``; or with another
        geometry than the unit matrix diagonals [K, d] or matrices [K, d, d]. Positive definite.
      coverage: log-probabilities that responses are drawn from, the reference by default.
      second_stage: features of the log-linear policies, pi_ref exp(features @ theta / beta), that the second stage is
        held to (``verifiers.soft_optimal_class`` of a linear class); all policies by default. Other classes of policies
        are not predicted.
    """
    law, candidates = pair_moments.pair_law(task, coverage), jnp.asarray(ridges)
    matrices = jax.vmap(lambda ridge: _matrix(ridge, fitted.dimension))(candidates)

    def of_numbers(numbers):
        selected = _select(_candidates(fitted, task, law, numbers[0], matrices), law, numbers[1])
        scores = jax.vmap(fitted.leaf_scores)(selected.fits)
        means = jax.vmap(fitted.leaf_scores)(selected.means)
        if second_stage is not None:
            scores, means = (_followed(second_stage, task, each) for each in (scores, means))
        regrets, biases = (jax.vmap(lambda each: regret_of(each, task))(each) for each in (scores, means))
        regret, bias = jnp.mean(regrets), selected.shares @ biases
        taken = candidates[jnp.argmax(selected.shares)]
        typical = jnp.exp(jnp.mean(jnp.log(regrets)))
        trusted = selected.inside & jnp.isfinite(regret)
        return Prediction(regret, typical, bias, regret - bias, selected.shares, taken, trusted)

    return jax.lax.map(of_numbers, (pairs, held_out))


def regret_of(scores: Float[Array, "X L"], task: Task) -> Float[Array, ""]:
    """KL(pi_r || pi*) of the soft-optimal policy of a reward, in nats, averaged over prompts."""
    return metrics.evaluate(soft_optimal_policy(scores, task.reference, task.beta), task).regret


class Moments(NamedTuple):
    """The mean fit [d], its response A to a score [d, d], and the covariance S of one pair's score [d, d]."""

    mean: Float[Array, "d"]
    response: Float[Array, "d d"]
    noise: Float[Array, "d d"]


def fixed_point_step(
    fitted: Linearised, task: Task, law: Float[Array, "X L L"], pairs: Number, ridge: Float[Array, "d d"], at: Moments
) -> tuple[Moments, Float[Array, ""]]:
    """One step towards the moments of fits to so many ``pairs`` under one ridge, and the most it moves a margin.

    The mean takes Newton's step, or log(1 + M) / M of one that would move a margin by M, because the curvature of the
    loss changes with margins (Bach, 2010, "Self-concordant analysis for logistic regression").
    """
    margin, gradients = _margins(fitted, task, at.mean)
    felt = gradients @ at.response
    leverage = pair_moments.of_differences(jnp.einsum("xld,xkd->xlk", felt, gradients))
    scatter = jnp.sqrt(pairs * pair_moments.of_differences(jnp.einsum("xld,xkd->xlk", felt @ at.noise, felt)))
    outside = jnp.stack([margin - scatter, margin + scatter])  # the two nodes of Gauss and Hermite
    leverage = jnp.stack([leverage, leverage])
    inside = jax.nn.sigmoid(-outside)
    inside = inside / (1 + leverage * inside * (1 - inside))
    for _ in range(INSIDE):
        wrong = jax.nn.sigmoid(-(outside + leverage * inside))
        inside = inside - (inside - wrong) / (1 + leverage * wrong * (1 - wrong))
    curvature = inside * (1 - inside)
    gradient = pair_moments.pull(gradients, law * jnp.mean(inside, axis=0))
    hessian = pair_moments.form(gradients, law * jnp.mean(curvature / (1 + leverage * curvature), axis=0))
    noise = pair_moments.form(gradients, law * jnp.mean(inside**2, axis=0)) - jnp.outer(gradient, gradient)
    response = pair_moments.inverse(pairs * hessian + ridge)
    move = -response @ (pairs * gradient + ridge @ at.mean)
    moved = gradients @ move
    most = jnp.max(jnp.max(moved, axis=1) - jnp.min(moved, axis=1))
    length = jnp.where(most > 0, jnp.log1p(most) / jnp.where(most > 0, most, 1.0), 1.0)
    return Moments(at.mean + length * move, response, noise), length * most


class _Candidates(NamedTuple):
    """Of each of K ridges: the mean fit, B deviations, losses of pairs, expected losses, whether it was settled."""

    means: Float[Array, "K d"]
    deviations: Float[Array, "K B d"]
    pair_losses: Float[Array, "K X L L"]
    losses: Float[Array, "K B"]
    settled: Bool[Array, "K"]


def _candidates(fitted: Linearised, task: Task, law, pairs: Number, ridges: Float[Array, "K d d"]) -> _Candidates:
    size = fitted.dimension
    directions, eye = jnp.asarray(_directions(size)), jnp.eye(size)

    limit = SETTLED / jnp.sqrt(pairs)

    def solve(before, ridge):
        moments, weight, settled = before
        tried = settled | (jnp.trace(ridge) >= weight)  # where a ridge was too weak, a weaker one is

        def step(state):
            at, _, count = state
            return *fixed_point_step(fitted, task, law, pairs, ridge, at), count + 1

        def unfinished(state):
            _, moved, count = state
            hopeful = (count < MOST) & ((count < PATIENT) | (moved < WILD))
            return tried & ((count < LEAST) | (hopeful & (moved > limit)))

        moments, moved, _ = jax.lax.while_loop(unfinished, step, (moments, jnp.inf, 0))
        settled = moved <= jnp.maximum(limit, NEAR)
        margin, gradients = _margins(fitted, task, moments.mean)
        wrong = jax.nn.sigmoid(-margin)
        rounding = jnp.finfo(margin.dtype).eps * jnp.trace(moments.noise)
        root = moments.response @ jnp.linalg.cholesky(moments.noise + rounding * eye)
        deviations = jnp.sqrt(pairs) * directions @ root.T
        losses, hessian = jax.nn.softplus(-margin), pair_moments.form(gradients, law * wrong * (1 - wrong))
        excess = (
            deviations @ pair_moments.pull(gradients, law * wrong)
            + jnp.sum(deviations @ hessian * deviations, axis=1) / 2
        )
        after = jax.tree.map(partial(jnp.where, settled), moments, start), jnp.trace(ridge), settled
        return after, _Candidates(moments.mean, deviations, losses, jnp.sum(law * losses) + excess, settled)

    start = Moments(jnp.zeros(size), pair_moments.inverse(ridges[0]), jnp.zeros((size, size)))
    return jax.lax.scan(solve, (start, jnp.zeros(()), jnp.array(True)), ridges)[1]


class _Selected(NamedTuple):
    """B imagined fits, each the one that its held-out pairs select, and what share of them each candidate has.

    ``inside``: the best candidate and its neighbours are settled; one that is not is never selected.
    """

    fits: Float[Array, "B d"]
    means: Float[Array, "K d"]
    shares: Float[Array, "K"]
    inside: Bool[Array, ""]


def _select(candidates: _Candidates, law, held_out: Number) -> _Selected:
    number, draws = candidates.losses.shape
    settled = candidates.settled
    losses = jnp.where(settled[:, None], candidates.losses, jnp.inf)
    best = jnp.argmin(jnp.mean(losses, axis=1))
    relative = candidates.pair_losses - candidates.pair_losses[best][None]  # what all share selects nothing
    relative = jnp.where(settled[:, None, None, None], relative, 0.0)
    mean = jnp.einsum("kxij,xij->k", relative, law)
    covariance = jnp.einsum("kxij,cxij->kc", relative * law[None], relative) - jnp.outer(mean, mean)
    rounding = jnp.finfo(mean.dtype).eps * (1 + jnp.trace(covariance))
    root = jnp.linalg.cholesky(covariance + rounding * jnp.eye(number)) / jnp.sqrt(held_out)
    chance = jnp.asarray(np.random.default_rng(1).normal(size=(draws, number)), root.dtype)
    chosen = jnp.argmin(losses.T + chance @ root.T, axis=1)
    fits = candidates.means[chosen] + candidates.deviations[chosen, jnp.arange(draws)]
    inside = jnp.all(settled | (jnp.abs(jnp.arange(number) - best) > 1))
    return _Selected(fits, candidates.means, jnp.mean(jax.nn.one_hot(chosen, number), axis=0), inside)


def _directions(size: int) -> np.ndarray:
    """[B, d] whose mean is 0 and covariance the unit matrix, exactly: half are orthogonal, half their mirror."""
    half = max(DRAWS // 2, size)
    orthogonal, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(half, size)))
    return np.concatenate([orthogonal, -orthogonal]) * half**0.5


def _matrix(ridge: Float[Array, "*ridge"], size: int) -> Float[Array, "d d"]:
    """A penalty, a diagonal or a matrix as a matrix."""
    return ridge if ridge.ndim == 2 else jnp.diag(jnp.broadcast_to(ridge, size))


def _margins(fitted: Linearised, task: Task, change: Float[Array, "d"]):
    """Margins [X, L, L] of all pairs over the temperature, and gradients [X, L, d] whose differences are theirs."""
    scores = fitted.leaf_scores(change) / task.temperature
    return scores[:, :, None] - scores[:, None, :], fitted.gradients(change) / task.temperature


def _followed(features: Float[Array, "X L p"], task: Task, scores: Float[Array, "B X L"]) -> Float[Array, "B X L"]:
    """What log-linear policies follow of each reward: that whose soft-optimal policy is their best one.

    Natural-gradient steps, which regress what is left of a reward on the features under the present policy; for the
    mean reward first, whose Fisher information then serves all of them.
    """

    def left(theta: Float[Array, "p"], reward: Float[Array, "X L"]):
        reward = reward - features @ theta
        weight = jnp.exp(soft_optimal_policy(features @ theta, task.reference, task.beta))
        centred = reward - jnp.sum(weight * reward, axis=1, keepdims=True)
        weight = task.prompt_probs[:, None] * weight
        return weight, jnp.einsum("xlp,xl->p", features, weight * centred)

    def information(weight):
        mean = jnp.einsum("xl,xlp->xp", weight, features)
        total = jnp.sum(weight, axis=1)[:, None]
        centred = features - (mean / jnp.where(total > 0, total, 1.0))[:, None]
        matrix = jnp.einsum("xl,xlp,xlq->pq", weight, centred, centred)
        return matrix + jnp.finfo(matrix.dtype).eps * jnp.trace(matrix) * jnp.eye(len(matrix))

    def step(theta, _):
        weight, slope = left(theta, mean)
        return theta + pair_moments.inverse(information(weight)) @ slope, None

    mean = jnp.mean(scores, axis=0)
    theta, _ = jax.lax.scan(step, jnp.zeros(features.shape[-1]), length=FOLLOWING)
    inverse = pair_moments.inverse(information(left(theta, mean)[0]))

    def chord(theta, reward):
        return jax.lax.scan(lambda each, _: (each + inverse @ left(each, reward)[1], None), theta, length=FOLLOWING)[0]

    return jax.vmap(lambda reward: features @ chord(theta, reward))(scores)
