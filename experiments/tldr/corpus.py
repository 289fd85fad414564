"""The data of a run: read, split by prompt, made tokens; training pairs as they are, relabelled, or sampled anew."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from experiments.kit.terminal import console
from experiments.tldr import keys, models, passes
from experiments.tldr.judging import Asked, endpoint_of, labeller
from experiments.tldr.models import Model
from experiments.tldr.run import Rows, Run
from experiments.tldr.settings import TOY
from gvgap_jax.lm.data import encode, forms, read, splits
from gvgap_jax.lm.data.encode import Encoded
from gvgap_jax.lm.data.format_choice import choice, example
from gvgap_jax.lm.data.formats import TLDR, Format
from gvgap_jax.lm.data.prompts import canonical, readable
from gvgap_jax.lm.data.rows import Comparison, Demonstration, report
from gvgap_jax.lm.data.summary import repeats
from gvgap_jax.lm.data.tokenizer import Tokenizer
from gvgap_jax.lm.data.unknown import UnknownText
from gvgap_jax.lm.judges.verdicts import Question
from gvgap_jax.runtime import processes
from gvgap_jax.training.checkpoints import digest
from gvgap_jax.types import Demonstrations, Preferences

READ: dict[str, tuple[Any, Sequence[forms.Form]]] = {
    "demonstrations": (read.read_demonstrations, forms.DEMONSTRATIONS),
    "comparisons": (read.read_comparisons, forms.COMPARISONS),
}


class Unseen(NamedTuple):
    """Prompts that no policy and no reward model of the comparison sees: no stage that trains them is handed this.

    Attributes:
      pairs: what the judge is trained on, and what reward models are tested on.
      questions: demonstrations, whose prompts every arm answers.
    """

    pairs: Preferences
    questions: Encoded[Demonstrations, Demonstration]


class Corpus(NamedTuple):
    """What is trained on, and how text becomes tokens and text again.

    Attributes:
      model, reward_model: checkpoints that policies and reward models begin from.
      format: how text becomes tokens.
      demonstrations: of training prompts.
      comparisons: of training prompts, with their text.
      references: ``canonical`` prompt of every demonstration of a training prompt -> its response.
    """

    model: Model
    reward_model: Model
    format: Format
    demonstrations: Demonstrations
    comparisons: Encoded[Preferences, Comparison]
    references: dict[str, str]

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the policy, and of all others."""
        return self.model.tokenizer

    def decoded(self, tokens) -> list[str]:
        """The text of responses [N, H]."""
        return self.tokenizer.answers(tokens)

    def prompts(self, tokens) -> list[str]:
        """The text of prompts [N, P], as the model reads them."""
        return self.tokenizer.decode_prompts(tokens)

    def asked(self, rows: Sequence[Comparison] | Sequence[Demonstration], tokens) -> list[str]:
        """The prompts [N, P] of N rows for judges: messages as a text for people, others as the model reads them."""
        return [readable(row.prompt) for row in rows] if self.format.chat else self.prompts(tokens)


def prepare(run: Run) -> tuple[Run, Corpus, Unseen]:
    """Read and encode all data, the same in every process, and say what is not used.

    Returns:
      the run, which now knows what its stages are made of; what it trains on; and what is held out.

    Raises:
      ValueError: a source or checkpoint cannot be read, the endpoint's settings contradict each other, too much of a
        source is malformed, nothing is left, or processes read different data.
    """
    data = run.recipe.data
    if run.recipe.endpoint.model:
        endpoint_of(run.recipe)
    found = {kind: _split(run, kind) for kind in READ}
    everything = [row for sides in found.values() for row in chain(*sides)]
    if processes.is_first():
        _tell_repeats(found)
    model = models.base(run, _texts(everything))
    rm_model = models.other(run, run.recipe.rm_size, "--rm_size", model) if run.recipe.rm_size else model
    gold = models.gold(run, run.recipe.gold_model) if run.recipe.gold_model else None

    chosen = choice([[row.prompt for row in chain(*sides)] for sides in found.values()], model.tokenizer)
    demonstrations, asked, comparisons, judged = (chosen.rows(side) for sides in found.values() for side in sides)
    how = dataclasses.replace(chosen.format, prompt_tokens=data.prompt_tokens, response_tokens=data.response_tokens)
    pairs = dataclasses.replace(how, response_tokens=data.compared_tokens)
    asked = _cut(run, asked)[: run.recipe.evaluation_prompts]
    shown = partial(_encoded, run, lambda rows: encode.demonstrations(rows, model.tokenizer, how), "response_tokens")
    paired = partial(_encoded, run, lambda rows: encode.preferences(rows, model.tokenizer, pairs), "compared_tokens")
    trained, questions = shown("demonstrations", _cut(run, demonstrations)), shown("evaluation prompts", asked)
    compared, held_out = paired("comparisons", comparisons), paired("held-out comparisons", judged)
    first = example(model.tokenizer, trained.data.prompts[0], trained.data.responses[0])
    console.print(f"format: {chosen.told}; the first: {first}", highlight=False, soft_wrap=True, markup=False)
    known = {canonical(row.prompt): row.response.strip() for row in trained.rows}
    text = Corpus(model, rm_model, how, trained.data, compared, known)
    sources = {
        keys.MODEL: model.key,
        keys.RM_MODEL: rm_model.key,
        keys.DEMONSTRATIONS: _digest(trained.data),
        keys.COMPARISONS: _digest(compared.data),
        keys.REFERENCES: keys.digest(_references(text, compared.rows)),
        keys.PROMPTS: digest(compared.data.prompts),
        keys.TEXTS: keys.digest([row.prompt for row in compared.rows]),
        keys.ONLINE_PROMPTS: digest(online_prompts(run, text)),
        keys.HELD_OUT: _digest(held_out.data),
        keys.QUESTIONS: keys.digest([_digest(questions.data), [row.prompt for row in questions.rows]]),
    } | ({keys.GOLD_MODEL: gold.key} if gold else {})
    processes.check_same(sources, "data and checkpoints")
    return run._replace(made=keys.made(run.recipe, sources)), text, Unseen(held_out.data, questions)


def _digest(data: Preferences | Demonstrations) -> str:
    """Of the tokens; weights and margins are the same for all data."""
    return digest([rows for rows in data if np.ndim(rows) == 2])


def _encoded(run: Run, encoded: Callable[[Any], Any], room: str, name: str, rows: Sequence[Any]) -> Any:
    """Rows as arrays, and a word on those that are left out; a refusal names the options that would change it."""
    if not rows:
        options = "--data.held_out or --data.limit"
        raise ValueError(f"{name}: no prompt is on this side of the split: change {options}, or give more data.")
    rooms = " and ".join(f"--data.{each} {getattr(run.recipe.data, each)}" for each in (room, "prompt_tokens"))
    way_out = f"There is room for {rooms}."
    try:
        found = encoded(rows)
    except UnknownText as error:
        own = f"another --model, or {TOY}, which trains a tokenizer on --data.comparisons and --data.demonstrations"
        raise ValueError(f"{name}: {error} Choose {own}.") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error} {way_out}") from error
    words = f"{name}: {found.report()} {way_out if found.dropped else ''}"
    console.print(words.rstrip(), highlight=False, soft_wrap=True)
    return found


def _texts(rows: Sequence[Any]) -> list[str]:
    """All texts of rows, for a tokenizer that is trained on them."""
    found = [TLDR.template]
    for row in rows:
        prompt = row.prompt.values() if isinstance(row.prompt, dict) else [readable(row.prompt)]
        found += [text for text in (*prompt, *row[1:-1]) if isinstance(text, str)]
    return found


def _tell_repeats(read: Mapping[str, tuple[list, list]]) -> None:
    """What is in the data twice, on one side of the split, or nearly so on both."""
    for kind, sides in read.items():
        found = repeats([*chain(*sides)])
        if found.rows or found.contradictions:
            both = f", and {found.contradictions:,} pairs are labelled both ways" if kind == "comparisons" else ""
            console.print(f"{kind}: {found.rows:,} rows repeat earlier ones{both}", highlight=False, soft_wrap=True)
    trained, held_out = ([row.prompt for rows in side for row in rows] for side in zip(*read.values(), strict=True))
    near = splits.near_duplicates(trained, held_out)
    if near:
        told = f"split: {near:,} held-out prompts are nearly those of training rows; none is the same"
        console.print(told, highlight=False, soft_wrap=True)


def _split(run: Run, kind: str) -> tuple[list, list]:
    """Rows to train on and rows to hold out, of all sources of a kind."""
    read_source, table = READ[kind]
    rows = []
    for name in getattr(run.recipe.data, kind):
        source = str(models.toy_world(run) / f"{kind}.jsonl") if name == TOY else name
        form = None if name == TOY else forms.named_of(table, run.recipe.data.form)
        try:
            corpus = read_source(source, form, part=run.recipe.data.split)
        except ValueError as error:
            raise ValueError(f"--data.{kind}: {error}") from error
        console.print(f"{kind} of {source}: {corpus.report()}", highlight=False, soft_wrap=True)
        rows += corpus.rows
    return splits.split(list(islice(rows, run.recipe.data.limit)), run.recipe.data.held_out)


def _cut(run: Run, rows: Sequence[Demonstration]) -> list[Demonstration]:
    return [row._replace(response=shortened(run, row.response)) for row in rows]


def shortened(run: Run, text: str) -> str:
    """The text, or its first two words where the recipe wants two-word responses."""
    return " ".join(text.split()[:2]) if run.recipe.two_words else text


def training_pairs(run: Run, text: Corpus) -> Preferences:
    """The pairs of reward models and of DPO: those of the data, relabelled, or sampled from the SFT policy."""
    if not run.recipe.relabelled:
        return text.comparisons.data
    rows = _resampled(run, text) if run.recipe.resampled else text.comparisons
    pairs, references = rows.data, _references(text, rows.rows)
    questions = [
        Question(*each)
        for each in zip(
            text.asked(rows.rows, pairs.prompts),
            text.decoded(pairs.chosen),
            text.decoded(pairs.rejected),
            references,
            strict=True,
        )
    ]
    there = np.array([each is not None for each in references]) | (run.recipe.label_source != "rouge_l")
    kept = np.flatnonzero(there)
    tokens = pairs.prompts[kept], pairs.chosen[kept], pairs.rejected[kept]
    asked = Asked([questions[row] for row in kept], *tokens, [rows.rows[row].prompt for row in kept])
    wins = labeller(run)("labels", asked).wins
    console.print(
        f"pairs relabelled by {run.recipe.label_source}: {np.sum(wins == 0.5)} ties, {np.sum(np.isnan(wins))} "
        f"undecided and {np.sum(~there)} without a reference are left out; {np.sum(wins == 0)} of {len(wins)} change "
        "their order.",
        highlight=False,
        soft_wrap=True,
    )
    return _ordered(asked, wins)


def _ordered(asked: Asked, wins: np.ndarray) -> Preferences:
    """Pairs with the winner first, without ties."""
    decided = np.flatnonzero((wins == 1) | (wins == 0))
    first = (wins[decided] == 1)[:, None]
    one, other = asked.first[decided], asked.second[decided]
    chosen: Rows = np.where(first, one, other)
    rejected: Rows = np.where(first, other, one)
    nothing: Rows = np.zeros(len(decided), np.float32)
    whole: Rows = np.ones(len(decided), np.float32)
    return Preferences(asked.prompts[decided], chosen, rejected, nothing, whole)


def _resampled(run: Run, text: Corpus) -> Encoded[Preferences, Comparison]:
    """Two responses of the SFT policy to the prompt of every training pair."""
    model = models.trained(run, "sft")
    drawn = passes.sampled(run, "pairs", model, text.comparisons.data.prompts, 2, run.recipe.temperature)
    one, other = ([shortened(run, each) for each in text.decoded(drawn[:, side])] for side in (0, 1))
    rows = [
        row._replace(chosen=first, rejected=second)
        for row, first, second in zip(text.comparisons.rows, one, other, strict=True)
    ]
    pairs = encode.preferences(rows, text.tokenizer, text.format, sampled=True)
    console.print(f"sampled pairs: {report(len(pairs.rows), pairs.dropped)}", highlight=False, soft_wrap=True)
    return pairs


def _references(text: Corpus, rows: Sequence[Comparison]) -> list[str | None]:
    """The human response to each row's prompt: the row's own, or that of a demonstration of the same prompt."""
    return [row.reference or text.references.get(canonical(row.prompt)) for row in rows]


def online_prompts(run: Run, text: Corpus) -> Rows:
    """The prompts of the online round, each once."""
    first = np.unique(text.comparisons.data.prompts, axis=0, return_index=True)[1]
    return text.comparisons.data.prompts[np.sort(first)][: run.recipe.online_prompts]
