"""Judges by score, ROUGE-L against its definition, agreement, and how answers of language models are read."""

import re

import numpy as np
import pytest

from gvgap_jax.lm.judges import verdicts
from gvgap_jax.lm.judges.verdicts import Question, Template, Verdicts

NAN = float("nan")


def of_wins(wins):
    return Verdicts(np.array(wins), {}, np.zeros(len(wins)))


def lengths(prompts, responses, references):
    return [NAN if not response else len(response) for response in responses]


def test_the_higher_score_wins_and_equal_scores_tie():
    questions = [Question("p", "long", "no"), Question("p", "no", "long"), Question("p", "same", "four")]
    found = verdicts.by_score(lengths)(questions)
    np.testing.assert_array_equal(found.wins, [1, 0, 0.5])
    np.testing.assert_array_equal(found.position_bias, [0, 0, 0])
    assert found.reasons == {}


def test_infinite_scores_are_compared():
    scores = {"a": np.inf, "b": -np.inf, "c": 1.0}
    judge = verdicts.by_score(lambda prompts, responses, references: [scores[each] for each in responses])
    found = judge([Question("", "a", "c"), Question("", "b", "c"), Question("", "a", "a")])
    np.testing.assert_array_equal(found.wins, [1, 0, 0.5])


def test_a_score_that_is_no_number_decides_nothing_and_says_so():
    found = verdicts.by_score(lengths)([Question("p", "one", ""), Question("p", "", "one"), Question("p", "a", "bc")])
    np.testing.assert_array_equal(found.wins, [NAN, NAN, 0])
    assert found.reasons == {0: "the scores are 3.0 and nan", 1: "the scores are nan and 3.0"}


def test_a_score_sees_prompt_and_reference():
    seen = []
    judge = verdicts.by_score(lambda *arguments: seen.append(arguments) or [0.0])
    judge([Question("prompt", "one", "two", "reference")])
    assert seen == [(["prompt"], ["one"], ["reference"]), (["prompt"], ["two"], ["reference"])]


def test_a_score_must_give_one_number_a_response():
    judge = verdicts.by_score(lambda prompts, responses, references: 1.0)
    with pytest.raises(ValueError, match=r"2 responses need a score each, got an array \[\]"):
        judge([Question("p", "a", "b")] * 2)


def longest_common(one, other):
    """Words of the longest common subsequence, by the recursion that defines it."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return longest_common(one[:-1], other[:-1]) + 1
    return max(longest_common(one[:-1], other), longest_common(one, other[:-1]))


def test_rouge_l_is_the_harmonic_mean_of_two_shares():
    numbers = np.random.default_rng(0)
    texts = [" ".join(numbers.choice(["The", "cat,", "sat", "on", "2"], size)) for size in numbers.integers(0, 6, 40)]
    responses, references = texts[:20], texts[20:]
    expected = []
    for response, reference in zip(responses, references, strict=True):
        words, wanted = (re.findall(r"[a-z0-9]+", text.lower()) for text in (response, reference))
        common = longest_common(words, wanted)
        expected.append(2 * common / (len(words) + len(wanted)) if common else 0.0)
    assert len(set(expected)) > 5
    np.testing.assert_allclose(verdicts.rouge_l(responses, references), expected, rtol=1e-12)


def test_rouge_l_judges_against_the_reference():
    judge = verdicts.by_score(lambda prompts, responses, references: verdicts.rouge_l(responses, references))
    found = judge([Question("p", "a dog ran", "a dog ran home", "my dog ran home")])
    np.testing.assert_array_equal(found.wins, [0])
    with pytest.raises(ValueError, match="response 0 has no reference"):
        judge([Question("p", "a", "b")])


def test_agreement_counts_a_tie_as_half_and_keeps_what_is_undecided():
    one, other = of_wins([1, 1, 0.5, 0.5, NAN]), of_wins([1, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(verdicts.agreement(one, other), [1, 0, 1, 0.5, NAN])


def test_the_difference_of_two_arms_is_paired():
    one, other = of_wins([1, 0.5, NAN, 0]), of_wins([0, 0.5, 1, 1])
    np.testing.assert_array_equal(verdicts.difference(one, other), [1, 0, NAN, -1])
    with pytest.raises(ValueError, match="same questions, got 4 and 1"):
        verdicts.difference(one, of_wins([1]))


def test_a_win_takes_both_orders_and_the_bias_is_reported():
    shown, swapped = np.array([1, 0, 1, 0, 1, 0.5, NAN]), np.array([0, 1, 1, 0, 0.5, 0.5, 1])
    found = verdicts.of_both_orders(shown, swapped, {6: "why"})
    np.testing.assert_array_equal(found.wins, [1, 0, 0.5, 0.5, 0.5, 0.5, NAN])
    np.testing.assert_array_equal(found.position_bias, [0, 0, 1, -1, 0.5, 0, NAN])
    assert found.reasons == {6: "why"}


READ = {
    "A": "A",
    "B is shorter.\nB": "B",
    "Because it says more.\n\n **C**. \n": "C",
    "```\nA\n```": "A",
    '{"better": "B"}': "B",
    'Thus:\n```json\n{\n "why": "A says less",\n "better": "B"\n}\n```': "B",
}
READ |= {
    '{"why": "a set {x} of {}", "better": "C"}': "C",
    '{"better": {"better": "A"}}': "A",
    "Both are long.\nFinal answer: **A**": "A",
    "The answer is (B).": "B",
    "Answer: $\\boxed{C}$": "C",
    "\\boxed{A}": "A",
    "<answer>B</answer>": "B",
    "My verdict - C": "C",
    "◁think▷so\nB◁/think▷A": "A",
    "<seed:think>so\nB</seed:think>A": "A",
    "<|channel|>analysis<|message|>so\nB<|end|><|start|>assistant<|channel|>final<|message|>A": "A",
}
NOT_READ = ["The answer is not A", "Answer: A or B", "Is the answer A", "Answer: A because", "an answer B", "Answer: a"]
NOT_READ += ["<|channel|>analysis<|message|>so\nB", "A" + "-" * 10**6 + "x", '{"a":' * 10**6 + '"A"']
NOT_READ += ["", "...", "a", "D", "A or B", "Summary A", "A\nis better", "A is better", '{"A": 1}', '{"b": [1]}']
NOT_READ += ['{"one": "A", "other": "B"}', '{"better": "A"} or not']


@pytest.mark.parametrize(
    ("answer", "expected"),
    [*READ.items(), *((answer, None) for answer in NOT_READ)],
    ids=range(len(READ) + len(NOT_READ)),
)
def test_letters_are_read_strictly(answer, expected):
    assert verdicts.letter(answer) == expected


def test_both_orders_differ_by_the_swap_alone():
    template = Template("t-1", "{prompt} {{{first}}} {second} {reference}")
    shown, swapped = verdicts.both_orders(template, [Question("p", "{x}", "y", "r")])
    assert (shown, swapped) == (["p {{x}} y r"], ["p {y} {x} r"])
    with pytest.raises(ValueError, match="'t-1' shows the reference, and question 1 has none"):
        verdicts.both_orders(template, [Question("p", "x", "y", "r"), Question("p", "x", "y")])


@pytest.mark.parametrize("text", ["{first}", "{first} {second} {other}", '{first} {second} {"better": "A"}'])
def test_a_template_must_show_both_responses_and_nothing_unknown(text):
    with pytest.raises(ValueError, match=r"template 't-1' must show {first} and {second}"):
        Template("t-1", text)


def test_the_template_for_summaries_shows_post_and_summaries_alone():
    assert verdicts.TLDR.shows == {"prompt", "first", "second"}
