"""Section 3.4: the local rewards of a soft-optimal policy are soft advantages.

beta log pi*/pi_ref = Q - V at every prefix, and along a completion they telescope to r - V. From policy to
reward is a logarithm; from reward to policy is the backward induction that computes Q and V.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from gvgap_jax import TokenTree, soft_rl
from gvgap_jax.tasks import Task
from theory.instances import random_tasks
from theory.rows import Row, apart, claim, negative_control, over_instances

TREES = (TokenTree(3, 3), TokenTree(2, 3, prompt_length=1))


def advantages(tree: TokenTree, task: Task, solved: Task):
    """Local rewards at every (prefix, token), and Q - V there, as one vector each.

    The policy is the soft-optimal one of the task ``solved``; Q and V, beta and the reference are those of ``task``.
    """
    policy = tree.conditionals(soft_rl.soft_optimal_policy(solved.reward, solved.reference, solved.beta))
    reference = tree.conditionals(task.reference)
    soft = soft_rl.backward_induction(tree, task.reward, task.reference, task.beta)
    local = [task.beta * (level - base) for level, base in zip(policy, reference, strict=True)]
    advantage = [q - value[..., None] for q, value in zip(soft.q, soft.value, strict=True)]
    return tuple(jnp.concatenate([level.reshape(-1) for level in side]) for side in (local, advantage))


def totals(task: Task, solved: Task):
    """Local reward of every completion, and r - V: [X, L] twice."""
    policy = soft_rl.soft_optimal_policy(solved.reward, solved.reference, solved.beta)
    value = soft_rl.soft_value(task.reward, task.reference, task.beta)
    return task.beta * (policy - task.reference), task.reward - value[:, None]


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of section 3.4 over ``instances`` random instances each."""
    generator = np.random.default_rng(34)
    for tree in TREES:
        task = random_tasks(generator, tree, instances)
        sides = over_instances(lambda *tasks, tree=tree: (advantages(tree, *tasks), totals(*tasks)))
        premises = f"soft-optimal policy, X = {tree.prompts}, L = {tree.leaves}"
        local, total = sides(task, task)
        yield claim("local rewards are soft advantages Q - V at every prefix", premises, apart(*local))
        yield claim("local rewards of a completion sum to r - V", premises, apart(*total))
        other = task._replace(reward=generator.normal(size=task.reward.shape))
        for dropped, solved in (
            ("a soft-optimal policy: another reward's", other),
            ("the right beta: twice as large", task._replace(beta=2 * task.beta)),
        ):
            local, total = sides(task, solved)
            yield negative_control(
                "local rewards are soft advantages Q - V at every prefix", dropped, apart(*local), 1e-2
            )
            yield negative_control("local rewards of a completion sum to r - V", dropped, apart(*total), 1e-2)
