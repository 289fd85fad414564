"""Who says which of two responses is better: gold verifier, reward model, ROUGE-L, or a model behind an endpoint."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.kit.terminal import console
from experiments.tldr import models, passes, toy
from experiments.tldr.models import Model
from experiments.tldr.run import Rows, Run
from experiments.tldr.settings import Recipe
from gvgap_jax.lm.data import encode
from gvgap_jax.lm.data.format_choice import choice
from gvgap_jax.lm.data.prompts import post_of
from gvgap_jax.lm.data.tokenizer import Prompt
from gvgap_jax.lm.judges import endpoint, verdicts
from gvgap_jax.lm.judges.verdicts import Question, Verdicts
from gvgap_jax.runtime import processes
from gvgap_jax.types import PADDING

POSITIONS = 2048  # of a checkpoint that does not say how long the texts are that it can read


class Asked(NamedTuple):
    """Questions as text, as tokens of the policy's tokenizer, and as they stand in the data.

    Attributes:
      prompts: [N, P]; first, second: responses [N, H].
      given: the N prompts of the data, which a judge writes in its own way; left out, those of the questions.
    """

    questions: list[Question]
    prompts: Rows
    first: Rows
    second: Rows
    given: Sequence[Prompt] = ()


Judged = Callable[[str, Asked], Verdicts]
"""A name for what is asked, and the questions -> verdicts; what takes long is stored under the name."""


def labeller(run: Run) -> Judged:
    """Who relabels training pairs."""
    source = run.recipe.label_source
    if source == "reward_model":
        return _of_checkpoint(run, str(run.recipe.gold_model))
    return _endpoint(run) if source == "endpoint" else {"gold": gold, "rouge_l": rouge_l}[source]


def judges_of(run: Run) -> dict[str, Judged]:
    """Who compares answers with human ones. ROUGE-L is not among them: nothing beats a text at being itself."""
    given = run.recipe.gold_model
    judge = _of_checkpoint(run, given) if given else _reward_model(run, models.trained(run, "judge"))
    judges: dict[str, Judged] = {"held_out_reward_model": judge}
    if run.recipe.in_toy_world:
        judges = {"gold": gold} | judges
    if run.recipe.endpoint.model:
        judges["endpoint"] = _endpoint(run)
    return judges


def gold(name: str, asked: Asked) -> Verdicts:
    """The toy world's own verifier."""
    del name
    return verdicts.by_score(lambda prompts, responses, _: toy.gold(prompts, responses))(asked.questions)


def rouge_l(name: str, asked: Asked) -> Verdicts:
    """Who is nearer to the human response."""
    del name
    return verdicts.by_score(lambda _, responses, references: verdicts.rouge_l(responses, references))(asked.questions)


def _of_checkpoint(run: Run, source: str) -> Judged:
    """A reward model from elsewhere, which reads texts through its own tokenizer and chat template.

    What is too long for it is not decided. Raises ValueError if it is no reward model.
    """
    model = models.gold(run, source)

    def judge(name: str, asked: Asked) -> Verdicts:
        read = _read(model, source, asked)
        scores = np.full((len(asked.questions), 2), np.nan)
        if read.rows:
            scores[read.rows] = passes.rewards(run, f"judge-{name}", model, read.prompts, read.responses)
        said = verdicts.compared(*scores.T)
        if read.reasons:
            why = ", ".join(f"{count:,} × {reason}" for reason, count in Counter(read.reasons.values()).most_common())
            told = f"{name}: {len(read.reasons):,} of {len(scores):,} questions are not decided: {why}"
            console.print(told, highlight=False, soft_wrap=True)
        return said._replace(reasons=said.reasons | read.reasons)

    return judge


def _read(model: Model, source: str, asked: Asked) -> encode.ToJudge:
    """What a reward model reads of the questions; ValueError if it cannot read them at all."""
    first, second = ([getattr(each, name) for each in asked.questions] for name in ("first", "second"))
    try:
        given = asked.given or [each.prompt for each in asked.questions]
        chosen = choice([given], model.tokenizer)
        prompts = [chosen.written(prompt) for prompt in given]
        read = encode.to_judge(prompts, first, second, model.tokenizer, chosen.format, _longest(model))
    except ValueError as error:
        raise ValueError(f"--gold_model {source}: {error}") from error
    return read._replace(responses=_without_last(read.responses, model.checkpoint.config.get("pad_token_id")))


def _without_last(responses: Rows, padding: int | None) -> Rows:
    """Responses [..., H] up to the last token that is not its ``pad_token_id``, where transformers has its reward read.

    It is an end token for many: they were trained to say their reward before it. One token is kept.
    """
    there = (responses != PADDING) & (responses != padding)
    last = np.maximum(there.shape[-1] - 1 - np.argmax(there[..., ::-1], axis=-1), 0)
    last = np.where(there.any(axis=-1), last, 0)
    return np.where(np.arange(there.shape[-1]) <= last[..., None], responses, PADDING)


def _longest(model: Model) -> int:
    """Tokens that it can read at once."""
    return model.shape.longest or model.checkpoint.config.get("max_position_embeddings", POSITIONS)


def _reward_model(run: Run, model: Model) -> Judged:
    def judge(name: str, asked: Asked) -> Verdicts:
        both = np.stack([asked.first, asked.second], axis=1)
        return verdicts.compared(*passes.rewards(run, f"judge-{name}", model, asked.prompts, both).T)

    return judge


def endpoint_of(recipe: Recipe) -> endpoint.Endpoint:
    """The endpoint's settings; ValueError if they contradict each other."""
    return endpoint.Endpoint(**asdict(recipe.endpoint), prefix="--endpoint.")


def _endpoint(run: Run) -> Judged:
    """Asked by the first process alone; its answers are stored beside the seeds, and never asked for again."""
    folder = Path(str(run.folder)).parent / "endpoint"
    judge_of = cache(lambda settings: endpoint.endpoint(settings, folder))  # which remembers what the server refuses

    def judge(name: str, asked: Asked) -> Verdicts:
        posts = sum(post_of(prompt) is not None for prompt in asked.given)
        template = verdicts.TLDR if 2 * posts >= len(asked.given) else verdicts.CHAT
        settings = replace(endpoint_of(run.recipe), template=template)
        ask, cost = judge_of(settings), endpoint.cost_estimate(asked.questions, settings)
        most = f"at most {cost.requests:,} requests and {cost.dollars:.2f} dollars"
        console.print(f"{name}: {most}, if none is answered yet")
        first = []
        processes.in_first(lambda: first.append(ask(asked.questions)))
        wins, reasons, bias = processes.from_first(
            [first[0].wins.tolist(), list(first[0].reasons.items()), first[0].position_bias.tolist()] if first else None
        )
        return Verdicts(np.array(wins, float), dict(reasons), np.array(bias, float))

    return judge
