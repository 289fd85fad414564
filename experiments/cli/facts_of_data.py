"""What is understood of preference data, and what a checkpoint would read of them."""

import dataclasses
import warnings
from typing import Any

import numpy as np

from experiments.cli.facts_of_checkpoints import Opened
from experiments.tldr.settings import Data
from gvgap_jax.lm.data import encode, format_choice, summary
from gvgap_jax.lm.data.read import Corpus
from gvgap_jax.lm.data.rows import Comparison
from gvgap_jax.lm.data.summary import QUANTILES

WORDS = "the least, the median, 95 % and the most"  # the QUANTILES
LONGEST = 480  # characters of an example
ROOM = {"demonstrations": Data.response_tokens, "comparisons": Data.compared_tokens}  # as the recipe has it


def facts(corpus: Corpus[Any]) -> dict[str, str]:
    """What a source holds, by name."""
    found = summary.summary(corpus)
    repeats = found.repeats
    told = {
        found.kind: found.report,
        "words": "; ".join(f"{name} {_quantiles(lengths.words)}" for name, lengths in found.lengths.items())
        + f" ({WORDS})",
        "duplicates": f"{repeats.rows:,} rows repeat earlier ones; {repeats.prompts:,} have a prompt of an earlier one",
    }
    if found.kind == "comparisons":
        told |= {
            "contradictions": f"{repeats.contradictions:,} pairs are labelled both ways",
            "ties": f"{found.ties:.1%} of pairs",
            "longer is chosen": f"{found.longer:.1%}",
            "differ by length alone": f"{found.length_alone:.1%}",
        }
    return told | {"first row": shown(found.example)}


def facts_for(corpus: Corpus[Any], found: Opened, prompt_tokens: int, response_tokens: int | None) -> dict[str, str]:
    """What a checkpoint reads of a source, by name.

    Raises:
      ValueError: the checkpoint has no tokenizer, or no template suits the prompts.
    """
    if isinstance(found.tokenizer, ValueError):
        raise found.tokenizer
    compares = isinstance(corpus.rows[0], Comparison)
    choice = format_choice.choice([[row.prompt for row in corpus.rows]], found.tokenizer)
    rows = choice.rows(corpus.rows)
    room = response_tokens or ROOM["comparisons" if compares else "demonstrations"]
    how = dataclasses.replace(choice.format, prompt_tokens=prompt_tokens, response_tokens=room)
    told = {"format": choice.told}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            told |= _fitting(encode.lengths(rows, found.tokenizer, how), prompt_tokens, room)
            encoded: Any = (encode.preferences if compares else encode.demonstrations)(rows, found.tokenizer, how)
        except ValueError as error:
            return told | {"refused": str(error)}
    data = encoded.data
    unknown = list(dict.fromkeys(str(each.message) for each in caught))
    first = format_choice.example(found.tokenizer, data.prompts[0], (data.chosen if compares else data.responses)[0])
    return told | {
        "rows": encoded.report(),
        "unknown tokens": " ".join(unknown) or "below 1% everywhere",
        "first as it is read": shown(first),
    }


def _fitting(lengths: dict[str, np.ndarray], prompt_tokens: int, room: int) -> dict[str, str]:
    """Quantiles of the lengths in tokens, and the share that there is room for."""
    told = {}
    for name, counts in lengths.items():
        option, most = ("--prompt_tokens", prompt_tokens) if name == "prompt" else ("--response_tokens", room)
        quantiles = _quantiles(np.quantile(counts, QUANTILES, method="higher"))
        told[f"{name} tokens"] = f"{quantiles}; {np.mean(counts <= most):.1%} fit {option} {most}"
    return told


def _quantiles(numbers: Any) -> str:
    return " / ".join(f"{int(each):,}" for each in numbers)


def shown(text: str) -> str:
    """An example in one line, its middle left out where it is long."""
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
