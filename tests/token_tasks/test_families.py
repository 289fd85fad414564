"""Token tasks: rewards against plain scorers, and best and random J against all V**H responses."""

import itertools
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import TokenTree, soft_rl, token_tasks
from gvgap_jax.token_tasks import token_task
from tests import helpers

KEY = jax.random.key(5)

FAMILIES = {
    "token_counts": lambda: token_tasks.token_counts(KEY, 3, 4, 2, prompt_length=2, prompts=9),
    "automaton": lambda: token_tasks.automaton(KEY, 3, 4, 3, prompt_length=2, prompts=9),
    "interactions": lambda: token_tasks.interactions(KEY, 3, 4, 2, prompt_length=2, prompts=9),
    "hidden_reference": lambda: token_tasks.hidden_reference(KEY, 3, 4, prompt_length=2, prompts=4),
    "sorting": lambda: token_tasks.sorting(KEY, 3, 4, prompts=9),
    "subset_sum": lambda: token_tasks.subset_sum(KEY, 3, 4, prompts=9),
    "colouring": lambda: token_tasks.colouring(KEY, 4, 4, 2, prompts=9),
}
PUZZLES = ("sorting", "subset_sum", "colouring")


@cache
def family(name):
    """The task, with a beta, a temperature and prompt probabilities that hide no factor."""
    task = FAMILIES[name]()
    weight = np.arange(1.0, len(task.prompt_table) + 1)
    return task._replace(beta=0.7, temperature=1.3, prompt_probs=jnp.asarray(weight / weight.sum()))


def rows(task):
    """Every (prompt of the task, response) as tuples; responses that ended early last."""
    prompts = [tuple(prompt) for prompt in task.prompt_table.tolist()]
    short = [response for length in range(task.horizon) for response in helpers.completions(task.vocabulary, length)]
    return [
        *itertools.product(prompts, helpers.completions(task.vocabulary, task.horizon)),
        *itertools.product(prompts, short),
    ]


@cache
def scored(name):
    """{(prompt, response): reward} of the library, over all ``rows``."""
    task, listed = family(name), rows(family(name))
    padded = [(*response, *[-1] * (task.horizon - len(response))) for _, response in listed]
    reward = jax.jit(task.reward)(jnp.array([prompt for prompt, _ in listed]), jnp.array(padded))
    return dict(zip(listed, reward.tolist(), strict=True))


def complete(name):
    """{prompt: {response: reward}} of responses of H tokens."""
    task, table = family(name), {}
    for (prompt, response), reward in scored(name).items():
        if len(response) == task.horizon:
            table.setdefault(prompt, {})[response] = reward
    return table


def count_score(prompt, response):
    return -2 * sum(abs(response.count(token) - prompt.count(token)) for token in (0, 1))


def sorting_score(prompt, response):
    descents = sum(second < first for first, second in itertools.pairwise(response))
    missing = sum(max(prompt.count(token) - response.count(token), 0) for token in set(prompt))
    return -2 * (descents + missing)


def subset_score(prompt, response):
    *numbers, high, low = prompt
    taken = sum(number for number, token in zip(numbers, response, strict=False) if token == 1)
    return -2 * abs(taken - (3 * high + low)) / 1.5


def colouring_score(prompt, response):
    edges = [(i, i - d) for i, token in enumerate(prompt) for d in (1, 2) if token & d]
    colour = [token if token < 3 else None for token in response] + [None] * (len(prompt) - len(response))
    return -2 * sum(colour[i] is None or colour[j] is None or colour[i] == colour[j] for i, j in edges)


def longest_common_subsequence(first, second):
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common_subsequence(first[:-1], second[:-1])
    return max(longest_common_subsequence(first[:-1], second), longest_common_subsequence(first, second[:-1]))


def rouge_score(prompt, response):
    """With the reference that the reward itself betrays: the only response that earns all of the scale."""
    (reference,) = [y for y, reward in complete("hidden_reference")[prompt].items() if reward == 20]
    common = longest_common_subsequence(response, reference)
    if common == 0:
        return 0
    precision, recall = common / len(response), common / len(reference)
    return 20 * 2 * precision * recall / (precision + recall)


def windows(prompt, response, order):
    return [(prompt[h % 2], *response[h - order + 1 : h + 1]) for h in range(order - 1, len(response))]


@cache
def window_table(order):
    """Least-squares entries for the complete responses of ``interactions``, and the largest error they leave."""
    listed = [row for row in scored("interactions") if len(row[1]) == 4]
    names = helpers.completions(3, order + 1)
    design = [[windows(*row, order).count(name) for name in names] for row in listed]
    reward = [scored("interactions")[row] for row in listed]
    entries, *_ = np.linalg.lstsq(design, reward)
    return dict(zip(names, entries.tolist(), strict=True)), np.abs(design @ entries - reward).max()


def window_score(prompt, response):
    return sum(window_table(2)[0][window] for window in windows(prompt, response, 2))


SCORES = {
    "token_counts": count_score,
    "interactions": window_score,
    "hidden_reference": rouge_score,
    "sorting": sorting_score,
    "subset_sum": subset_score,
    "colouring": colouring_score,
}


@pytest.mark.parametrize("name", SCORES)
def test_the_reward_is_that_of_a_plain_scorer_and_padding_is_not_counted(name):
    for (prompt, response), reward in scored(name).items():
        if name == "interactions" and len(response) == 4:
            continue  # what the scorer was made from; see the next test but one
        assert reward == pytest.approx(SCORES[name](prompt, response), abs=1e-9), (prompt, response)


def test_the_automaton_is_one_whose_tokens_permute_its_states():
    """Every such automaton of 3 states is tried: the reward must be a function of the final state of one."""
    reward = scored("automaton")
    assert len({round(value, 9) for value in reward.values()}) == 3

    def fits(moves):
        values = {}
        for (prompt, response), value in reward.items():
            state = 0
            for token in prompt + response:
                state = moves[token][state]
            if abs(values.setdefault(state, value) - value) > 1e-9:
                return False
        return True

    assert any(fits(moves) for moves in itertools.product(itertools.permutations(range(3)), repeat=3))


def test_interactions_reach_their_order_and_no_lower():
    assert window_table(2)[1] < 1e-9
    assert window_table(1)[1] > 0.1


def brute_force(name, beta):
    """[X] best and random J of every prompt, from all of its responses."""
    best, random = [], []
    for prompt in family(name).prompt_table.tolist():
        reward = complete(name)[tuple(prompt)]
        law = dict.fromkeys(reward, 1 / len(reward))
        best.append(beta * math.log(helpers.partition(law, reward, beta)))
        random.append(helpers.expectation(law, reward))
    return best, random


@pytest.mark.parametrize("name", FAMILIES)
def test_best_and_random_are_exact_at_their_own_beta(name):
    task = family(name)
    found, (best, random) = token_tasks.objectives(task), brute_force(name, 0.7)
    np.testing.assert_allclose(found.optimal, best, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.uniform, random, rtol=0, atol=1e-9)
    weight = task.prompt_probs.tolist()
    assert found.best == pytest.approx(sum(w * value for w, value in zip(weight, best, strict=True)))
    assert found.random == pytest.approx(sum(w * value for w, value in zip(weight, random, strict=True)))
    colder = token_tasks.objectives(task._replace(beta=0.3))
    np.testing.assert_allclose(colder.optimal, brute_force(name, 0.3)[0], rtol=0, atol=1e-9)
    assert colder.best > found.best + 1e-2, "another beta is another optimum"
    np.testing.assert_allclose(colder.uniform, random, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_matter(name):
    """No two prompts in a row ask for the same thing everywhere: differences of reward are not all constant."""
    table = np.array([list(reward.values()) for reward in complete(name).values()])
    assert np.ptp(table - table[:1], axis=1).max() > 0.1


@pytest.mark.parametrize("name", PUZZLES)
def test_every_instance_has_a_solution_and_nothing_earns_more(name):
    for reward in complete(name).values():
        assert max(reward.values()) == 0


def test_counts_of_a_real_size_agree_with_a_multinomial_sum():
    """8 tokens and H = 10, 2**30 responses: 5 tokens wanted of the first two, 4 of the next two."""
    task = token_tasks.token_counts(KEY, 8, 10, 2, group_size=2, prompt_length=10, prompts=1)
    task = task._replace(prompt_table=jnp.array([[0, 1, 0, 1, 0, 2, 3, 2, 3, 7]]))
    law = {
        (a, b): math.comb(10, a) * math.comb(10 - a, b) * 0.25 ** (a + b) * 0.5 ** (10 - a - b)
        for a in range(11)
        for b in range(11 - a)
    }
    reward = {(a, b): -2.0 * (abs(a - 5) + abs(b - 4)) for a, b in law}
    found = token_tasks.objectives(task)
    assert found.best == pytest.approx(math.log(helpers.partition(law, reward, 1.0)), abs=1e-9)
    assert found.random == pytest.approx(helpers.expectation(law, reward), abs=1e-9)


def test_random_responses_of_a_real_size_get_what_is_stated():
    task = token_tasks.hidden_reference(KEY, 8, 12, prompt_length=2, prompts=2)
    numbers = np.random.default_rng(0)
    prompts = np.asarray(task.prompt_table)[numbers.integers(2, size=20_000)]
    reward = np.asarray(jax.jit(task.reward)(prompts, numbers.integers(8, size=(20_000, 12))))
    error = reward.std() / math.sqrt(20_000)
    assert token_tasks.objectives(task).random == pytest.approx(reward.mean(), abs=4 * error)
    assert reward.std() > 1


def test_no_policy_on_the_tree_is_better_than_the_best_and_the_optimal_one_attains_it():
    task = family("token_counts")
    task = task._replace(prompt_probs=task.prompt_probs.at[3].set(0) / (1 - task.prompt_probs[3]))
    tree = TokenTree(3, 4, 2)
    on_tree, best = token_tasks.on_tree(tree, task), token_tasks.objectives(task).best
    np.testing.assert_allclose((on_tree.beta, on_tree.temperature), (0.7, 1.3))

    def objective(log_policy):
        values = soft_rl.objective(log_policy, on_tree.reward, on_tree.reference, on_tree.beta)
        return float(on_tree.prompt_probs @ values)

    assert objective(on_tree.optimal) == pytest.approx(best, abs=1e-9)
    for noise in np.random.default_rng(0).normal(0, 0.5, (5, *on_tree.reward.shape)):
        assert objective(jax.nn.log_softmax(on_tree.optimal + noise)) < best - 1e-3
    assert objective(on_tree.reference) == pytest.approx(token_tasks.objectives(task).random, abs=1e-9)
    held_out = int(tree.prompt_index(task.prompt_table[3:4])[0])
    assert on_tree.prompt_probs[held_out] == 0


def test_a_prompt_without_a_reference_earns_nothing():
    on_tree = token_tasks.on_tree(TokenTree(3, 4, 2), family("hidden_reference"))
    present = np.abs(on_tree.reward).max(-1) > 0
    np.testing.assert_array_equal(present, on_tree.prompt_probs > 0)
    assert present.sum() == 4


def test_values_are_the_same_in_halves_and_too_many_states_are_refused(monkeypatch):
    task = family("sorting")
    whole = token_tasks.objectives(task)
    monkeypatch.setattr(token_task, "STEPS_AT_ONCE", 100)
    np.testing.assert_allclose(token_tasks.objectives(task).optimal, whole.optimal, rtol=0, atol=1e-12)
    monkeypatch.setattr(token_task, "STEPS_AT_ONCE", 10)
    with pytest.raises(ValueError, match="more than 3 states on one prompt"):
        token_tasks.objectives(task)


def test_rows_wider_than_a_machine_word_are_told_apart():
    numbers = np.random.default_rng(0)
    states = numbers.choice([0, 2**40], (200, 4))
    kept, which = token_task._distinct(states)
    np.testing.assert_array_equal(states[kept][which], states)
    assert len(kept) == len({tuple(row) for row in states.tolist()}) == 16


def test_seeds_of_a_task_batch():
    keys = jax.random.split(KEY, 2)
    responses = jnp.array([[0, 1, 2, 0], [2, 2, 1, 0]])

    def reward(key):
        task = token_tasks.interactions(key, 3, 4, 2, prompt_length=2, prompts=9)
        return task.reward(task.prompt_table[:2], responses)

    both = jax.jit(jax.vmap(reward))(keys)
    np.testing.assert_allclose(both[1], reward(keys[1]), atol=1e-12)
    assert np.all(np.abs(both[0] - both[1]) > 1e-6)


def test_environment_asks_the_prompts_that_are_not_held_out():
    task = family("sorting")
    task = task._replace(prompt_probs=jnp.zeros(9).at[2].set(0.5).at[7].set(0.5))
    environment = token_tasks.environment(task, task.reward)
    asked = environment.prompts(KEY, 64)
    assert {tuple(row) for row in asked.tolist()} == {
        tuple(row) for row in task.prompt_table[jnp.array([2, 7])].tolist()
    }
    reference = environment.reference(asked[:1], jnp.array([[0, 1, -1, -1]]))
    np.testing.assert_allclose(reference, [[-math.log(3), -math.log(3), 0, 0]])
    assert environment.reward is not None
    assert (environment.beta, environment.temperature) == (0.7, 1.3)


def test_a_window_verifier_holds_the_gold_of_its_order():
    task = family("interactions")
    verifier = token_tasks.window_verifier(task, 2)
    start = verifier.init(KEY)
    assert verifier.num_parameters == start.size == 27
    listed = rows(task)
    prompts = jnp.array([prompt for prompt, _ in listed])
    responses = jnp.array([(*response, *[-1] * (4 - len(response))) for _, response in listed])
    entries = jnp.array(list(window_table(2)[0].values())).reshape(start.shape)
    score = jax.jit(verifier.score)
    np.testing.assert_allclose(score(entries, prompts, responses), list(scored("interactions").values()), atol=1e-9)
    assert not jnp.any(score(start, prompts, responses))


def test_a_count_verifier_reads_counts_and_nothing_else():
    task = family("token_counts")
    verifier = token_tasks.count_verifier(task, 5)
    params = verifier.init(KEY)
    assert verifier.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    prompts = jnp.array([[0, 1], [1, 0], [0, 1], [1, 1], [0, 1]])
    responses = jnp.array([[0, 1, 2, 2], [2, 1, 2, 0], [0, 1, 2, -1], [0, 1, 2, 2], [0, 0, 2, 2]])
    assert not jnp.any(verifier.score(params, prompts, responses)), "it starts at a reward of 0"
    readout = jax.tree.map(lambda leaf: leaf + jax.random.normal(KEY, leaf.shape), params)
    first, same, *others = verifier.score(readout, prompts, responses).tolist()
    assert same == pytest.approx(first, abs=1e-12)
    assert len({round(value, 6) for value in (first, *others)}) == 4


BAD = {
    "token_counts: prompt_length must be an integer between 0 and 4, got 5": lambda: token_tasks.token_counts(
        KEY, 3, 4, 2, prompt_length=5
    ),
    "token_counts: groups must be an integer between 1 and 1, got 2": lambda: token_tasks.token_counts(
        KEY, 3, 4, 2, prompt_length=2, group_size=2
    ),
    "token_counts: group_size must be an integer between 1 and 3, got 0": lambda: token_tasks.token_counts(
        KEY, 3, 4, 1, prompt_length=2, group_size=0
    ),
    "automaton: prompts must be an integer of at least 1, got 0": lambda: token_tasks.automaton(
        KEY, 3, 4, 2, prompt_length=2, prompts=0
    ),
    "hidden_reference: prompt_length must be an integer of at least 0, got -1": lambda: token_tasks.hidden_reference(
        KEY, 3, 4, prompt_length=-1
    ),
    "automaton: states must be an integer of at least 2, got 1": lambda: token_tasks.automaton(
        KEY, 3, 4, 1, prompt_length=2
    ),
    "interactions: order must be an integer between 1 and 4, got 5": lambda: token_tasks.interactions(
        KEY, 3, 4, 5, prompt_length=2
    ),
    "hidden_reference: horizon must be an integer between 1 and 30, got 31": lambda: token_tasks.hidden_reference(
        KEY, 3, 31, prompt_length=2
    ),
    r"there are 3\^2 = 9 prompts, fewer than 10": lambda: token_tasks.hidden_reference(
        KEY, 3, 4, prompt_length=2, prompts=10
    ),
    "sorting: prompts must be an integer of at least 1, got 0": lambda: token_tasks.sorting(KEY, 3, 4, prompts=0),
    "sorting: vocabulary must be an integer of at least 2, got 1": lambda: token_tasks.sorting(KEY, 1, 4),
    "subset_sum: horizon must be an integer of at least 1, got 0": lambda: token_tasks.subset_sum(KEY, 3, 0),
    "colouring: vocabulary must be an integer of at least 8, got 4": lambda: token_tasks.colouring(KEY, 4, 5, 3),
    "window_verifier: order must be an integer between 1 and 4, got 0": lambda: token_tasks.window_verifier(
        family("interactions"), 0
    ),
    "on_tree: the task has a vocabulary of 3, horizon 4 and prompts of 2 tokens; it needs": lambda: token_tasks.on_tree(
        TokenTree(3, 2, 2), family("interactions")
    ),
    "objectives: beta must be positive and finite, got 0": lambda: token_tasks.objectives(
        family("sorting")._replace(beta=0)
    ),
    "objectives: prompt_probs must be at least 0 and sum to 1, they sum to 9": lambda: token_tasks.objectives(
        family("sorting")._replace(prompt_probs=jnp.ones(9))
    ),
    r"responses must have shapes \(1, 2\) and \(1, 4\), got \(1, 2\) and \(1, 5\)": lambda: family(
        "token_counts"
    ).reward(jnp.zeros((1, 2), int), jnp.zeros((1, 5), int)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_sizes_are_refused(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
