"""A rival explanation: direct preference optimisation over too small a policy class is misspecified.

Gopalan et al., "Why DPO is a Misspecified Estimator and How to Fix It": three arms, gold rewards (1, 2, 0),
policies softmax(theta, -theta, 0), a uniform reference. The minimiser of DPO then depends on how often each
pair of arms was compared, though every label is right; over all policies it does not.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gvgap_jax import TokenTree, algorithms, policies
from gvgap_jax.tasks import Task
from gvgap_jax.types import HeldOut, Preferences, TreePolicy
from theory.fits import UNPENALISED, converged_leaves
from theory.instances import random_betas
from theory.rows import Row, apart, claim, negative_control, over_instances

ARMS = TokenTree(3, 1)
REWARD = ((1.0, 2.0, 0.0),)
COMPARED = ((0, 1), (1, 2), (0, 2))
PUBLISHED_DPO = (  # beta, counts of the pairs of arms above, theta, expected gold reward
    (1.0, (1, 1, 100), 0.91136, 0.84625),
    (1.0, (100, 1, 1), -0.49880, 1.19875),
    (1.0, (1, 1, 1), -0.42604, 1.16681),
    (3.0, (1, 1, 100), 0.30379, 0.91530),
)
PUBLISHED_RLHF = ((1.0, -0.99518, 1.41847), (3.0, -0.20000, 1.07283))  # beta, theta, expected gold reward
PUBLISHED_TO = 1e-5  # five decimals


def one_parameter() -> TreePolicy:
    """softmax(theta, -theta, 0)."""
    return policies.linear(ARMS, (jnp.array([1.0, -1.0, 0.0]).reshape(1, 1, 3, 1),))


def every_policy() -> TreePolicy:
    """Three free logits."""
    return policies.tabular(ARMS)


def comparisons(counts, task: Task) -> Preferences:
    """The population of labels when arms are compared so often, each pair in both orders."""
    first, second = jnp.array(COMPARED + tuple(pair[::-1] for pair in COMPARED)).T
    odds = (task.reward[0, first] - task.reward[0, second]) / task.temperature
    return Preferences(
        prompts=jnp.zeros((len(first), 0), int),
        chosen=first[:, None],
        rejected=second[:, None],
        reference_margin=task.reference[0, first] - task.reference[0, second],
        weight=jnp.tile(counts, 2) * jax.nn.sigmoid(odds),
    )


def two_methods(make_policy, beta, counts):
    """Leaf log-probabilities [1, 3] of DPO on these comparisons, and of RLHF on the gold reward.

    NaN unless the fit converged.
    """
    task, policy, key = _task(beta), make_policy(), jax.random.key(0)
    data = comparisons(counts, task)
    problem = algorithms.Problem(task.known, data, HeldOut(data))
    dpo = algorithms.dpo(key, algorithms.Classes(policy), problem, UNPENALISED)
    rlhf = algorithms.second_stage(key, policy, task.reward, task.known, UNPENALISED)
    return converged_leaves(policy, dpo), converged_leaves(policy, rlhf)


def check(instances: int = 64) -> Iterator[Row]:
    """The published rows, then DPO against RLHF over ``instances`` random counts and betas."""
    generator = np.random.default_rng(8)
    random_beta = random_betas(generator, instances, (0.4, 2.5))
    random_counts = np.exp(generator.uniform(0, np.log(100), (instances, 3)))
    published = [(beta, counts) for beta, counts, *_ in PUBLISHED_DPO] + [
        (beta, (1, 1, 1)) for beta, *_ in PUBLISHED_RLHF
    ]
    beta, counts = (np.array(column, float) for column in zip(*published, strict=True))
    batch = np.concatenate([beta, random_beta]), np.concatenate([counts, random_counts])
    dpo, rlhf = (np.asarray(side) for side in over_instances(partial(two_methods, one_parameter))(*batch))

    rows, end = len(PUBLISHED_DPO), len(published)
    statement = "over one parameter: theta and E r as published"
    residuals = apart(_reported(dpo[:rows]), [row[2:] for row in PUBLISHED_DPO])
    yield claim(f"DPO {statement}", "3 arms, 4 pairs of beta and counts", residuals, PUBLISHED_TO)
    residuals = apart(_reported(rlhf[rows:end]), [row[1:] for row in PUBLISHED_RLHF])
    yield claim(f"RLHF {statement}", "3 arms, 2 betas", residuals, PUBLISHED_TO)

    statement = "DPO = RLHF on the gold reward, whatever the counts"
    full = over_instances(partial(two_methods, every_policy))(*batch)
    yield claim(statement, "every policy over 3 arms, random counts and betas", apart(*full))
    yield negative_control(statement, "every policy: one parameter", apart(dpo, rlhf), 1e-2)


def _task(beta) -> Task:
    uniform = jnp.full((1, 3), -jnp.log(3.0))
    return Task(jnp.array(REWARD), uniform, jnp.ones(1), jnp.asarray(beta), jnp.ones(()))


def _reported(log_policies) -> np.ndarray:
    """theta and the expected gold reward of softmax(theta, -theta, 0), [instances, 2]."""
    log_policies = np.asarray(log_policies)[:, 0]
    theta = (log_policies[:, 0] - log_policies[:, 1]) / 2
    return np.stack([theta, np.exp(log_policies) @ np.array(REWARD[0])], axis=1)
