"""Enumeration oracles in plain Python: loops, dictionaries and math, and nothing that the library computes with.

A prompt or a response is a tuple of tokens. A law or a score is a dictionary {response: number}, and a
table holds one of them for each prompt: {prompt: {response: number}}.
"""

import itertools
import math
import re


def completions(vocabulary, length):
    """Every sequence of ``length`` tokens, in counting order."""
    return list(itertools.product(range(vocabulary), repeat=length))


def as_table(tree, array):
    """{prompt: {response: value}} of a leaf array [X, L]."""
    prompts, responses = completions(tree.vocabulary, tree.prompt_length), completions(tree.vocabulary, tree.horizon)
    return {prompt: dict(zip(responses, row, strict=True)) for prompt, row in zip(prompts, array.tolist(), strict=True)}


def exponential(scores):
    return {response: math.exp(value) for response, value in scores.items()}


def walk(levels, vocabulary, prompt_number, response):
    """Probability of a response, token by token, from levels of logits [X, V**h, V]."""
    probability, prefix = 1.0, 0
    for level, token in zip(levels, response, strict=True):
        weights = [math.exp(logit) for logit in level[prompt_number][prefix].tolist()]
        probability *= weights[token] / sum(weights)
        prefix = prefix * vocabulary + token
    return probability


def prefix_probability(law, prefix):
    return sum(probability for response, probability in law.items() if response[: len(prefix)] == prefix)


def expectation(law, score):
    return sum(probability * score[response] for response, probability in law.items())


def kl(law, other):
    return sum(p * math.log(p / other[response]) for response, p in law.items() if p > 0)


def partition(reference, reward, beta):
    """Z = sum_y pi_ref(y) exp(r(y) / beta)."""
    return sum(probability * math.exp(reward[response] / beta) for response, probability in reference.items())


def soft_optimal(reference, reward, beta):
    total = partition(reference, reward, beta)
    return {response: p * math.exp(reward[response] / beta) / total for response, p in reference.items()}


def objective(law, reward, reference, beta):
    return expectation(law, reward) - beta * kl(law, reference)


def soft_value(reference, reward, beta, vocabulary, prefix=()):
    """Soft value of a prefix by recursion over its next tokens, with the reward paid at the leaf."""
    if prefix in reward:
        return reward[prefix]
    total = 0.0
    for token in range(vocabulary):
        following = (*prefix, token)
        chance = prefix_probability(reference, following) / prefix_probability(reference, prefix)
        total += chance * math.exp(soft_value(reference, reward, beta, vocabulary, following) / beta)
    return beta * math.log(total)


def best_of_n(law, score, n):
    """Law of the best of n samples: every n-tuple, its best members equally likely to be kept."""
    kept = dict.fromkeys(law, 0.0)
    for samples in itertools.product(law, repeat=n):
        best = max(score[response] for response in samples)
        winners = [response for response in samples if score[response] == best]
        for response in winners:
            kept[response] += math.prod(law[sample] for sample in samples) / len(winners)
    return kept


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def preference_law(prompt_probs, reward, coverage, temperature):
    """{(prompt, chosen, rejected): probability}, from all ordered draws and both labels."""
    law = {}
    for chance, prompt in zip(prompt_probs, reward, strict=True):
        for first, second in itertools.product(reward[prompt], repeat=2):
            drawn = chance * coverage[prompt][first] * coverage[prompt][second]
            wins = sigmoid((reward[prompt][first] - reward[prompt][second]) / temperature)
            for pair, probability in (((first, second), wins), ((second, first), 1 - wins)):
                law[(prompt, *pair)] = law.get((prompt, *pair), 0.0) + drawn * probability
    return law


def bradley_terry(margins, weights):
    losses = [-weight * math.log(sigmoid(margin)) for margin, weight in zip(margins, weights, strict=True)]
    return sum(losses) / sum(weights)


def solve(matrix, vector):
    """Gaussian elimination with pivoting."""
    rows = [[*row, value] for row, value in zip(matrix, vector, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [rows[row][size] / rows[row][row] for row in range(size)]


def fisher_information(gradients, prompt_probs, reward, coverage, temperature):
    """Information of one pair about the parameters: gradients {prompt: {response: [d]}}, summed pair by pair."""
    size = len(next(iter(next(iter(gradients.values())).values())))
    information = [[0.0] * size for _ in range(size)]
    for chance, prompt in zip(prompt_probs, gradients, strict=True):
        for first, second in itertools.product(gradients[prompt], repeat=2):
            wins = sigmoid((reward[prompt][first] - reward[prompt][second]) / temperature)
            weight = chance * coverage[prompt][first] * coverage[prompt][second] * wins * (1 - wins) / temperature**2
            pairs = zip(gradients[prompt][first], gradients[prompt][second], strict=True)
            change = [a - b for a, b in pairs]
            for i, j in itertools.product(range(size), repeat=2):
                information[i][j] += weight * change[i] * change[j]
    return information


def effective_dimension(gradients, prompt_probs, reward, reference, beta, temperature):
    """tr(Cov I^-1) / beta^2 with Cov the covariance of the gradients under the soft-optimal policy."""
    information = fisher_information(gradients, prompt_probs, reward, reference, temperature)
    size = len(information)
    covariance = [[0.0] * size for _ in range(size)]
    for chance, prompt in zip(prompt_probs, gradients, strict=True):
        law = soft_optimal(reference[prompt], reward[prompt], beta)
        mean = [expectation(law, {y: gradients[prompt][y][i] for y in law}) for i in range(size)]
        for i, j in itertools.product(range(size), repeat=2):
            for response, probability in law.items():
                row = gradients[prompt][response]
                covariance[i][j] += chance * probability * (row[i] - mean[i]) * (row[j] - mean[j])
    return sum(solve(information, column)[i] for i, column in enumerate(covariance)) / beta**2


def trajectories(states, actions, horizon):
    """Every (s_0, a_0, s_1, ..., a_{H-1}, s_H) as a pair of state and action tuples."""
    return itertools.product(
        itertools.product(range(states), repeat=horizon + 1), itertools.product(range(actions), repeat=horizon)
    )


def trajectory_probability(start, transition, policy, states, actions):
    """Under a policy [H][S][A], from nested lists of probabilities."""
    probability = start[states[0]]
    for step, action in enumerate(actions):
        probability *= policy[step][states[step]][action] * transition[states[step]][action][states[step + 1]]
    return probability


def products(program) -> list[str]:
    """The lines of a lowered program that multiply matrices."""
    return re.findall(r"stablehlo\.(?:dot_general|dot|convolution)\b.*", program.as_text())


def in_less_than_single_precision(lines: list[str]) -> list[str]:
    """Those of the products that an accelerator may compute in bfloat16 or TF32."""
    return [line for line in lines if line.count("HIGHEST") != 2]
