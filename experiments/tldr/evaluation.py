"""Every arm answers held-out prompts, judges compare them with human ones; reward models meet held-out pairs."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from experiments.kit.terminal import console
from experiments.tldr import models, passes, toy
from experiments.tldr.corpus import Corpus, Unseen
from experiments.tldr.judging import Asked, judges_of
from experiments.tldr.models import Model
from experiments.tldr.run import Rows, Run
from experiments.tldr.settings import AGAIN, ARMS, BEST_OF_N, TOY
from experiments.tldr.stages import with_reference
from gvgap_jax.lm.judges import verdicts
from gvgap_jax.lm.judges.verdicts import Question
from gvgap_jax.runtime import processes, provenance
from gvgap_jax.runtime.files import explained, save
from gvgap_jax.types import Demonstrations, Preferences


class Answers(NamedTuple):
    """One response of an arm to every evaluation prompt.

    Attributes:
      tokens: [N, H]; texts: the same, decoded.
      log_ratio: [N], log pi/pi_ref in nats; NaN where the arm's probabilities are not known.
    """

    tokens: Rows
    texts: list[str]
    log_ratio: np.ndarray


def evaluate(run: Run, text: Corpus, unseen: Unseen) -> None:
    """Store the tables ``answers``, ``verdicts`` and ``pairs`` of this seed."""
    reference, data = models.trained(run, "sft"), unseen.questions.data
    prompts, humans = text.prompts(data.prompts), text.decoded(data.responses)
    given = {
        arm: _answers(run, text, data.prompts, arm, reference)
        for arm in ARMS
        if arm in (AGAIN, BEST_OF_N) or models.is_done(run, arm)
    }
    _store(run, "answers", pl.concat(_as_table(run, arm, answers, prompts, humans) for arm, answers in given.items()))
    _store(run, "verdicts", _verdicts(run, data, given, prompts, humans))
    _store(run, "pairs", _held_out_pairs(run, unseen.pairs, reference))


def _answers(run: Run, text: Corpus, prompts: Rows, arm: str, reference: Model) -> Answers:
    name, recipe = f"evaluate-{arm}", run.recipe
    if arm == BEST_OF_N:
        drawn = passes.sampled(run, name, reference, prompts, recipe.samples, recipe.temperature)
        reward = passes.rewards(run, f"{name}-rewards", models.trained(run, "reward_model"), prompts, drawn)
        best = np.argmax(reward, axis=1)
        tokens = drawn[np.arange(len(drawn)), best]
        return Answers(tokens, text.decoded(tokens), np.full(len(tokens), np.nan))
    model = models.trained(run, "sft" if arm == AGAIN else arm)
    drawn = passes.sampled(run, name, model, prompts, 1, recipe.evaluation_temperature)
    tokens = drawn[:, 0]
    own, under_reference = (
        passes.log_probs(run, f"{name}-{which}", each, prompts, drawn)[:, 0]
        for which, each in (("own", model), ("reference", reference))
    )
    return Answers(tokens, text.decoded(tokens), (own - under_reference).astype(float))


def _as_table(run: Run, arm: str, answers: Answers, prompts: list[str], humans: list[str]) -> pl.DataFrame:
    unknown = np.full(len(answers.texts), np.nan)
    return pl.DataFrame(
        {
            "arm": arm,
            "question": np.arange(len(answers.texts)),
            "prompt": prompts,
            "human": humans,
            "answer": answers.texts,
            "tokens": np.sum(answers.tokens >= 0, axis=1),
            "words": [len(text.split()) for text in answers.texts],
            "log_ratio": answers.log_ratio,
            "rouge_l": verdicts.rouge_l(answers.texts, humans),
            "gold": toy.gold(prompts, answers.texts) if run.recipe.model == TOY else unknown,
        }
    )


def _verdicts(
    run: Run, data: Demonstrations, given: Mapping[str, Answers], prompts: list[str], humans: list[str]
) -> pl.DataFrame:
    """A row for every judge, arm and question: whether the arm's answer wins against the human one."""
    rows = []
    for name, judge in judges_of(run).items():
        for arm, answers in given.items():
            questions = [Question(*each) for each in zip(prompts, answers.texts, humans, humans, strict=True)]
            said = judge(f"{name}-{arm}", Asked(questions, data.prompts, answers.tokens, data.responses))
            reasons = [said.reasons.get(number) for number in range(len(questions))]
            columns = {"question": np.arange(len(questions)), "win": said.wins, "position_bias": said.position_bias}
            rows.append(
                pl.DataFrame({"judge": name, "arm": arm, **columns, "reason": pl.Series(reasons, dtype=pl.String)})
            )
    return pl.concat(rows)


def _held_out_pairs(run: Run, pairs: Preferences, reference: Model) -> pl.DataFrame:
    """Margins of the global reward model and of DPO's local one on held-out pairs, in units of the log odds."""
    margins = {"global": _margin_of_reward_model(run, pairs)}
    if models.is_done(run, "dpo"):
        policy = with_reference(run, "pairs-dpo", models.trained(run, "dpo"), pairs).reference_margin
        referee = with_reference(run, "pairs-reference", reference, pairs).reference_margin
        margins["local"] = run.recipe.beta * np.asarray(policy - referee)
    return pl.concat(
        pl.DataFrame({"rewards": name, "pair": np.arange(len(values)), "margin": np.asarray(values, float)})
        for name, values in margins.items()
    )


def _margin_of_reward_model(run: Run, pairs: Preferences) -> np.ndarray:
    both, model = np.stack([pairs.chosen, pairs.rejected], axis=1), models.trained(run, "reward_model")
    chosen, rejected = passes.rewards(run, "pairs-reward_model", model, pairs.prompts, both).T
    return chosen - rejected


def _store(run: Run, table: str, rows: pl.DataFrame) -> None:
    rows = rows.with_columns(seed=pl.lit(run.recipe.seed))
    if processes.is_first():
        folder = run.folder / "evaluate"
        with explained(folder):
            folder.mkdir(exist_ok=True)
        save(folder, table, rows, provenance.environment())
        console.print(f"{table}: {len(rows):,} rows")
