"""Lemma 2.1: where the dynamics are deterministic, KL-regularised RL is a reverse-KL projection of P*_r.

P*_r is the law pi_ref exp(r/beta) / Z over completions. In a stochastic process the same law conditions
on luck, and the policy read off it is not the optimum.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gvgap_jax import TokenTree, algorithms, divergence, optimize, policies, soft_rl
from gvgap_jax.losses import weighted_mean
from theory.instances import random_betas, random_policies, random_rewards, random_tasks
from theory.rows import Row, apart, claim, negative_control, over_instances

TREES = (TokenTree(3, 3), TokenTree(2, 3, prompt_length=1))
CANDIDATES = 16  # random policies compared in each instance
STATES, ACTIONS, STEPS = 6, 3, 8
SETTINGS = algorithms.Settings(rl_tolerance=1e-13, rl_steps=300)


def full_class(task, log_policies):
    """J(pi) and V - beta KL(pi || P*_r), for policies [K, X, L] and for pi* itself: [K + 1, X] twice."""
    optimal = soft_rl.soft_optimal_policy(task.reward, task.reference, task.beta)
    value = soft_rl.soft_value(task.reward, task.reference, task.beta)
    log_policies = jnp.concatenate([log_policies, optimal[None]])
    gained = jax.vmap(lambda policy: soft_rl.objective(policy, task.reward, task.reference, task.beta))(log_policies)
    projected = jax.vmap(lambda policy: value - task.beta * divergence.kl(policy, optimal))(log_policies)
    return gained, projected


def root_value(tree: TokenTree, task):
    """V at the root by backward induction, and beta log Z: [X] twice."""
    backward = soft_rl.backward_induction(tree, task.reward, task.reference, task.beta)
    return backward.value[0][:, 0], soft_rl.soft_value(task.reward, task.reference, task.beta)


def restricted_class(tree: TokenTree, task, candidates):
    """The class markov(1): gradients, best of the candidates [K, d], and optima, each from J and from the reverse KL.

    Returns:
      three pairs of sides: gradients [K, d] of J and of -beta KL; the index of the best candidate
      for J and for the KL; leaf log-probabilities [X, L] of the optimum for J and for the KL.
    """
    policy = policies.markov(tree, 1, tree.conditionals(task.reference))
    key = jax.random.key(0)
    start, unravel = ravel_pytree(policy.init(key))

    def gain(flat):
        log_policy = policy.leaf_log_probs(unravel(flat))
        return weighted_mean(soft_rl.objective(log_policy, task.reward, task.reference, task.beta), task.prompt_probs)

    def distance(flat):
        optimal = soft_rl.soft_optimal_policy(task.reward, task.reference, task.beta)
        return weighted_mean(divergence.kl(policy.leaf_log_probs(unravel(flat)), optimal), task.prompt_probs)

    gains, gain_gradients = jax.vmap(jax.value_and_grad(gain))(candidates)
    distances, distance_gradients = jax.vmap(jax.value_and_grad(distance))(candidates)
    best = algorithms.second_stage(key, policy, task.reward, task.known, SETTINGS)
    nearest = optimize.minimise(distance, start, optax.lbfgs(), SETTINGS.rl_steps, tolerance=SETTINGS.rl_tolerance)
    return (
        (gain_gradients, -task.beta * distance_gradients),
        (jnp.argmax(gains), jnp.argmin(distances)),
        (policy.leaf_log_probs(best.params), policy.leaf_log_probs(unravel(nearest.params))),
    )


def decision_process(mdp: soft_rl.MDP, beta):
    """The soft-optimal policy and the one read off P*_r, [H, S, A] twice, and the J of each."""
    optimal = soft_rl.mdp_soft_optimal_policy(mdp, STEPS, beta)
    posterior = soft_rl.mdp_posterior_policy(mdp, STEPS, beta)
    values = soft_rl.mdp_objective(mdp, optimal, beta), soft_rl.mdp_objective(mdp, posterior, beta)
    return (optimal, posterior), values


def check(instances: int = 64) -> Iterator[Row]:
    """Rows of Lemma 2.1 over ``instances`` random instances each."""
    generator = np.random.default_rng(21)
    for tree in TREES:
        yield from _full_class_rows(generator, tree, instances)
    yield from _restricted_class_rows(generator, TREES[1], instances)
    yield from _decision_process_rows(generator, instances)


def _full_class_rows(generator: np.random.Generator, tree: TokenTree, instances: int) -> Iterator[Row]:
    tasks = random_tasks(generator, tree, instances)
    random = random_policies(generator, (instances, CANDIDATES, tree.prompts, tree.leaves))
    premises = f"every policy, X = {tree.prompts}, L = {tree.leaves}"
    objectives = over_instances(full_class)(tasks, random)
    yield claim("J(pi) = V - beta KL(pi || P*_r), and J(pi*) = V", premises, apart(*objectives))
    values = over_instances(lambda task: root_value(tree, task))(tasks)
    yield claim("V by backward induction = beta log Z", premises, apart(*values))


def _restricted_class_rows(generator: np.random.Generator, tree: TokenTree, instances: int) -> Iterator[Row]:
    # At a smaller beta the projection onto a restricted class can have several local optima.
    tasks = random_tasks(generator, tree, instances, beta=(1.0, 2.5))
    candidates = generator.normal(size=(instances, CANDIDATES, policies.markov(tree, 1).num_parameters))
    sides = over_instances(lambda task, candidates: restricted_class(tree, task, candidates))
    gradients, best, optima = sides(tasks, candidates)
    yield claim("grad J = -beta grad KL(pi || P*_r)", "markov(1) policies", apart(*gradients))
    statement = "argmax J = argmin KL(pi || P*_r)"
    yield claim(statement, f"{CANDIDATES} markov(1) policies, by trying all", apart(*best))
    yield claim(statement, "markov(1) policies, beta >= 1, each side by its own descent", apart(*optima))


def _decision_process_rows(generator: np.random.Generator, instances: int) -> Iterator[Row]:
    sides = over_instances(decision_process)
    statement = "the policy read off P*_r is soft-optimal"
    chosen, values = sides(*_processes(generator, instances, stochastic=False))
    yield claim(statement, "decision process, deterministic dynamics", apart(*chosen))
    yield claim(f"{statement}: same J", "decision process, deterministic dynamics", apart(*values))
    chosen, (best, lucky) = sides(*_processes(generator, instances, stochastic=True))
    yield negative_control(statement, "deterministic dynamics", apart(*chosen), 1e-2)
    yield negative_control(f"{statement}: same J", "deterministic dynamics", np.asarray(best - lucky), 1e-5)


def _processes(generator: np.random.Generator, instances: int, stochastic: bool):
    shape = (instances, STATES, ACTIONS)
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(STATES)[generator.integers(STATES, size=shape)])
    mdp = soft_rl.MDP(
        start=random_policies(generator, (instances, STATES)),
        transition=random_policies(generator, (*shape, STATES)) if stochastic else jnp.asarray(certain),
        reward=random_rewards(generator, shape, (1.0, 2.0)),
        reference=random_policies(generator, shape),
    )
    return mdp, random_betas(generator, instances, (0.3, 1.0))
