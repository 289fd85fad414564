"""Bad input: every message says what was wrong and what to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, algorithms, losses, metrics, policies, preferences, tasks, verifiers
from gvgap_jax.algorithms import Classes, Problem, Settings
from gvgap_jax.tasks import make_task

TREE = TokenTree(2, 2)
ZEROS = np.zeros((1, 4))
NAN = np.array([[0.0, np.nan, 0.0, 0.0]])
IMPOSSIBLE = np.log(np.array([[0.5, 0.5, 0.0, 0.0]]), where=[[True, True, False, False]], out=np.full((1, 4), -np.inf))
KEY = jax.random.key(0)

CASES = {
    "no tokens": (lambda: TokenTree(0, 2), ["vocabulary must be an integer of at least 2, got 0"]),
    "no horizon": (lambda: TokenTree(2, 0), ["horizon must be an integer of at least 1, got 0"]),
    "negative prompt": (lambda: TokenTree(2, 2, -1), ["prompt_length must be an integer of at least 0, got -1"]),
    "size not whole": (lambda: TokenTree(2.5, 2), ["vocabulary must be an integer", "got 2.5"]),
    "too many leaves": (
        lambda: TokenTree(50_000, 3),
        ["50000^3 = 125,000,000,000,000 leaves", "16,000,000,000,000,000 bytes", "Use a shorter horizon or a smaller"],
    ),
    "too many prompts": (lambda: TokenTree(10, 1, 15), ["1,000,000,000,000,000 prompts", "bytes"]),
    "sizes that overflow": (lambda: TokenTree(np.int64(16), np.int64(16)), ["18,446,744,073,709,551,616 leaves"]),
    "NaN reward": (lambda: make_task(TREE, NAN), ["reward is nan at [0, 1]", "must be finite", "how it was computed"]),
    "infinite reward": (lambda: make_task(TREE, NAN + np.inf), ["reward is inf at [0, 0]"]),
    "impossible response": (
        lambda: make_task(TREE, ZEROS, IMPOSSIBLE),
        ["reference is -inf at [0, 2]", "Give every response some probability"],
    ),
    "probabilities for logs": (
        lambda: make_task(TREE, ZEROS, np.full((1, 4), 0.25)),
        ["reference (log-probabilities) must sum to 1", "off by 4.14", "Normalise"],
    ),
    "unnormalised prompts": (
        lambda: make_task(TREE, ZEROS, prompt_probs=[0.9]),
        ["prompt_probs must sum to 1", "off by 0.1"],
    ),
    "negative prompts": (
        lambda: make_task(TokenTree(2, 1, 1), np.zeros((2, 2)), prompt_probs=[1.5, -0.5]),
        ["prompt_probs must not be negative, got -0.5"],
    ),
    "reward of another tree": (
        lambda: make_task(TREE, np.zeros((1, 3))),
        ["reward must have shape (1, 4)", "horizon=2", "got (1, 3)"],
    ),
    "prompts of another tree": (
        lambda: make_task(TREE, ZEROS, prompt_probs=[0.5, 0.5]),
        ["prompt_probs must have shape (1,)", "got (2,)"],
    ),
    "beta zero": (lambda: make_task(TREE, ZEROS, beta=0.0), ["beta must be positive, between 0.01 and 100, got 0.0"]),
    "beta NaN": (lambda: make_task(TREE, ZEROS, beta=np.nan), ["beta must be positive, between 0.01 and 100, got nan"]),
    "beta infinite": (lambda: make_task(TREE, ZEROS, beta=np.inf), ["beta must be positive", "100, got inf"]),
    "negative temperature": (
        lambda: make_task(TREE, ZEROS, temperature=-1.0),
        ["temperature must be positive, between 0.01 and 100, got -1.0"],
    ),
    "unknown family": (
        lambda: tasks.task_family("interaction"),
        [
            "no task family 'interaction'",
            "interactions, sparse, automaton, token_counts",
            "Did you mean 'interactions'?",
        ],
    ),
    "family like no other": (lambda: tasks.task_family("zzz"), ["no task family 'zzz'", "there are interactions"]),
    "no states": (lambda: tasks.automaton(KEY, TREE, 0), ["automaton: states must be at least 1, got 0"]),
    "negative order": (lambda: policies.markov(TREE, -1), ["order must be at least 0 tokens, got -1"]),
    "order zero": (lambda: verifiers.interactions(TREE, 0), ["order must be between 1 and 2", "got 0"]),
    "order too high": (lambda: verifiers.interactions(TREE, 3), ["order must be between 1 and 2", "got 3"]),
    "one token": (lambda: TokenTree(1, 2), ["vocabulary must be an integer of at least 2, got 1"]),
    "nothing kept": (lambda: verifiers.sparse(TREE, 0), ["size must be between 1 and the 3 interactions", "got 0"]),
    "more than there is": (lambda: verifiers.sparse(TREE, 4), ["size must be between 1 and the 3", "got 4"]),
    "no units": (lambda: policies.mlp_policy(TREE, 0), ["width must be at least 1 unit, got 0"]),
    "no units to verify": (lambda: verifiers.mlp_verifier(TREE, -1), ["width must be at least 1 unit, got -1"]),
    "unknown read-out": (
        lambda: verifiers.mlp_verifier(TREE, 2, "sum"),
        ["read_out must be 'final' or 'token_sum', got 'sum'"],
    ),
    "features of another tree": (
        lambda: verifiers.linear(TREE, jnp.ones((1, 3, 2))).score(jnp.ones(2), *TREE.rows()),
        ["a leaf array has shape (1, 4), got (1, 3)"],
    ),
    "a level is missing": (
        lambda: policies.linear(TREE, (jnp.ones((1, 1, 2, 3)),)).leaf_log_probs(jnp.ones(3)),
        ["levels of logits must have shapes [(1, 1, 2), (1, 2, 2)], got [(1, 1, 2)]"],
    ),
    "base that would broadcast": (
        lambda: policies.tabular(TREE, (jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2)))),
        ["levels of logits must have shapes [(1, 1, 2), (1, 2, 2)]"],
    ),
    "unknown solver": (lambda: Settings(solver="sgd"), ["solver must be 'newton' or 'adam', got 'sgd'"]),
    "no penalties": (lambda: Settings(penalties=()), ["penalties must be a non-empty tuple", "got ()"]),
    "negative penalty": (lambda: Settings(penalties=(1.0, -1.0)), ["numbers >= 0", "-1.0"]),
    "beta that is nearly 0": (lambda: make_task(TREE, ZEROS, beta=1e-300), ["between 0.01 and 100, got 1e-300"]),
    "infinite penalty": (lambda: Settings(penalties=(np.inf,)), ["finite numbers >= 0", "inf"]),
    "NaN penalty": (lambda: Settings(penalties=(1.0, np.nan)), ["numbers >= 0", "nan"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_says_what_is_wrong(case):
    call, fragments = CASES[case]
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, fragments))):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.bradley_terry(jnp.ones(3), jnp.ones(2)),
        lambda: losses.local_margin(jnp.ones(3), jnp.ones(3), jnp.ones(1), 1.0),
        lambda: losses.sft(jnp.ones((2, 2)), jnp.ones(4)),
        lambda: metrics.pair_accuracy(jnp.ones(3), jnp.ones(1)),
    ],
)
def test_axes_that_do_not_match_are_refused_before_they_broadcast(call):
    with pytest.raises(AssertionError, match="shape"):
        call()


def quasi_separable():
    """Ten pairs in which the first token decides alone, and further ones in which it does not differ."""
    task = make_task(TREE, np.array([[50.0, 50.0, 0.0, 0.0]]))
    return Problem(task.known, *preferences.split(preferences.sample(KEY, TREE, task, 40), 40))


FITS = {
    "DPO": (algorithms.dpo, Classes(policies.tabular(TREE))),
    "reward model": (algorithms.reward_model, Classes(policies.tabular(TREE), verifiers.interactions(TREE, 1))),
}


def test_a_separable_fit_without_a_penalty_is_refused():
    method, classes = FITS["reward model"]
    with pytest.raises(ValueError, match=r"separable.*Give it a positive penalty, or more pairs"):
        method(KEY, classes, quasi_separable(), Settings(penalties=(0.0,)))


@pytest.mark.parametrize("name", FITS)
def test_a_separable_fit_has_not_converged_in_a_compiled_program(name):
    """However flat the likelihood is where Newton stops; a fit of pairs that contradict each other has converged."""
    method, classes = FITS[name]
    problem = quasi_separable()
    train = problem.train
    turned = train._replace(chosen=train.rejected, rejected=train.chosen, reference_margin=-train.reference_margin)
    doubled = jax.tree.map(lambda *rows: jnp.concatenate(rows), train, turned)

    @jax.jit
    def fit(share):
        weight = doubled.weight * jnp.repeat(jnp.array([1 - share, share]), train.weight.size)
        shown = problem._replace(train=doubled._replace(weight=weight))
        return method(KEY, classes, shown, Settings(penalties=(0.0,), tolerance=1e-2))

    separable = fit(0.0)
    assert separable.gradient_norm < 1e-2 * jnp.sqrt(train.weight.sum()), "the gradient alone says that it has"
    assert not separable.converged
    assert fit(0.25).converged


@pytest.mark.parametrize("solver", ["newton", "adam"])
def test_pairs_of_which_none_is_held_out_are_refused(solver):
    """Where they are known; in a compiled program the fit has not converged."""
    problem = quasi_separable()
    problem = problem._replace(
        held_out=problem.held_out._replace(pairs=problem.train._replace(weight=0 * problem.train.weight))
    )
    settings = Settings(solver=solver, penalties=(1.0,), adam_steps=500, patience=5)
    with pytest.raises(ValueError, match="no pair is held out"):
        algorithms.dpo(KEY, FITS["DPO"][1], problem, settings)
    fit = jax.jit(lambda problem: algorithms.dpo(KEY, FITS["DPO"][1], problem, settings))(problem)
    assert not fit.converged
