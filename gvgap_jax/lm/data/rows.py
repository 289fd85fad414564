"""What a row of preference data says, whatever form it was written down in; and rows that are not used."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gvgap_jax.lm.data.tokenizer import Prompt
from gvgap_jax.runtime.messages import first_few

POST = ("subreddit", "title", "post")


class Comparison(NamedTuple):
    """Two responses to a prompt, and another that they may be judged against; ``where`` it was read."""

    prompt: Prompt
    chosen: str
    rejected: str
    reference: str | None = None
    where: str = ""


class Demonstration(NamedTuple):
    """A response to imitate; ``where`` it was read."""

    prompt: Prompt
    response: str
    where: str = ""


class Dropped(NamedTuple):
    """A row that is not used.

    Attributes:
      where: it stands ("file:line").
      reason: why it is not used, the same for all rows that lack the same.
      malformed: False for a row that is as it should be and says nothing of use, such as a tie.
    """

    where: str
    reason: str
    malformed: bool = True


def report(kept: int, dropped: Sequence[Dropped]) -> str:
    """One sentence: how many rows are not used, for which reasons, and where the first of each stand."""
    if not dropped:
        return f"all {kept} rows are used."
    total = kept + len(dropped)
    return f"{len(dropped)} of {total} rows ({len(dropped) / total:.2%}) are not used: {reasons(dropped)}."


def reasons(dropped: Sequence[Dropped]) -> str:
    """How many rows are not used for which reason, the commonest first, and where the first of each stand."""
    return "; ".join(
        f"{count} × {reason} ({first_few([each.where for each in dropped if each.reason == reason])})"
        for reason, count in Counter(each.reason for each in dropped).most_common()
    )
