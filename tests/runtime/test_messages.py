"""Parts of messages: names that are nearly known, configurations that differ, lists that are long."""

import pytest

from gvgap_jax.runtime.messages import differences, first_few, reason, unknown


def test_the_nearest_name_is_suggested_whatever_its_case():
    assert unknown("city", "paris", ["London", "Paris"]) == (
        "there is no city 'paris'; there are London, Paris. Did you mean 'Paris'?"
    )
    assert unknown("city", "zzz", ["London", "Paris"]) == "there is no city 'zzz'; there are London, Paris."


def test_differences_are_named_leaf_by_leaf():
    old, new = {"parameters": {"['in']": "float32[2]"}, "task": "a"}, {"parameters": {}, "task": "b", "more": 0}
    assert differences(old, new) == [
        "parameters ['in'] float32[2] there, nothing now",
        "task a there, b now",
        "more nothing there, 0 now",
    ]
    assert not differences(old, old)


def test_long_lists_are_cut():
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d", "e"], "; ") == "a; b; c; and 2 more"


@pytest.mark.parametrize(("error", "words"), [(OSError("one\ntwo"), "one"), (KeyError(), "KeyError")])
def test_the_reason_is_the_first_line(error, words):
    assert reason(error) == words
