"""Axes of a grid whose values experiments only hand on to their cells' numbers: one call of ``cells`` serves them all.

A grid of a million values of beta needs no million calls. The field holds a stand-in for all of its values, which can
be handed on and compared with a number, if all values compare alike, and nothing else. What does more with the field
raises an error, and the field's values are walked one by one.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

EXACT = 2**53


class SeveralValuesError(TypeError):
    """A stand-in was asked for what depends on which value it stands for."""


class Passed:
    """All values of a field at once."""

    def __init__(self, field: str, values: Sequence[int | float]):
        self.field = field
        self._values = np.array(values, float)

    def _compared(self, other: Any, compare: Callable[[Any, Any], Any]) -> bool:
        if isinstance(other, bool) or not isinstance(other, (int, float)):
            self._refuse()
        outcomes = compare(self._values, other)
        if outcomes.any() != outcomes.all():
            self._refuse()
        return bool(outcomes[0])

    def __lt__(self, other):
        return self._compared(other, operator.lt)

    def __le__(self, other):
        return self._compared(other, operator.le)

    def __gt__(self, other):
        return self._compared(other, operator.gt)

    def __ge__(self, other):
        return self._compared(other, operator.ge)

    def __eq__(self, other):
        return self._compared(other, operator.eq)

    def __ne__(self, other):
        return self._compared(other, operator.ne)

    def _refuse(self, *_) -> NoReturn:
        raise SeveralValuesError(f"{self.field} stands for {len(self._values):,} values here.")

    __hash__ = __bool__ = __repr__ = __str__ = __format__ = __reduce_ex__ = _refuse  # pyright: ignore


def can_be_passed(values: Sequence[Any]) -> bool:
    """Whether a field's values are several finite numbers, which double precision holds exactly."""
    return len(values) > 1 and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < EXACT for value in values
    )
