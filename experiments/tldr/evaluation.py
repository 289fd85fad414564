"""Every arm answers held-out prompts, judges compare them with human ones; reward models meet held-out pairs."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from experiments.kit.terminal import console
from experiments.tldr import models, passes, toy
from experiments.tldr.corpus import Corpus, Unseen
from experiments.tldr.judging import Asked, judges_of
from experiments.tldr.keys import Made, closure
from experiments.tldr.models import Model
from experiments.tldr.run import Rows, Run, is_whole, note, say_again, say_kept
from experiments.tldr.settings import AGAIN, ARMS, BEST_OF_N, TABLES
from experiments.tldr.stages import with_reference
from gvgap_jax.lm.data.encode import Encoded
from gvgap_jax.lm.data.rows import Demonstration
from gvgap_jax.lm.judges import verdicts
from gvgap_jax.lm.judges.verdicts import Question
from gvgap_jax.runtime import processes, provenance
from gvgap_jax.runtime.files import Folder, chunk_file, explained, made_by_of, save
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
    """Store the tables ``answers``, ``verdicts`` and ``pairs`` of this seed; those that are there already are kept."""
    reference, data = models.trained(run, "sft"), unseen.questions.data
    prompts, humans = text.asked(unseen.questions.rows, data.prompts), text.decoded(data.responses)
    arms = [arm for arm in ARMS if arm in (AGAIN, BEST_OF_N) or models.is_done(run, arm)]

    @functools.cache
    def given() -> dict[str, Answers]:
        return {arm: _answers(run, text, data.prompts, arm, reference) for arm in arms}

    def answers() -> pl.DataFrame:
        return pl.concat(_as_table(run, arm, each, prompts, humans) for arm, each in given().items())

    made = _made(run, {*arms, "reward_model", "judge"})
    _store(run, made, "answers", answers)
    _store(run, made, "verdicts", lambda: _verdicts(run, unseen.questions, given(), prompts, humans))
    _store(run, made, "pairs", lambda: _held_out_pairs(run, unseen.pairs, reference))


def _made(run: Run, there: Collection[str]) -> dict[str, Made]:
    """What the tables and all behind them are made of, where some arms are not there yet."""
    made = dict(run.made)
    for table in TABLES:
        above = {stage: made[stage].key for stage in made[table].stages if stage in {*there, *TABLES}}
        made[table] = made[table]._replace(stages=above)
    return {stage: each for stage, each in made.items() if stage in {*there, *TABLES, "rm_sft"}}


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
            "gold": toy.gold(prompts, answers.texts) if run.recipe.in_toy_world else unknown,
        }
    )


def _verdicts(
    run: Run,
    held_out: Encoded[Demonstrations, Demonstration],
    given: Mapping[str, Answers],
    prompts: list[str],
    humans: list[str],
) -> pl.DataFrame:
    """A row for every judge, arm and question: whether the arm's answer wins against the human one."""
    rows, data, asked = [], held_out.data, [row.prompt for row in held_out.rows]
    for name, judge in judges_of(run).items():
        for arm, answers in given.items():
            questions = [Question(*each) for each in zip(prompts, answers.texts, humans, humans, strict=True)]
            said = judge(f"{name}-{arm}", Asked(questions, data.prompts, answers.tokens, data.responses, asked))
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


def _store(run: Run, made: Mapping[str, Made], table: str, rows: Callable[[], pl.DataFrame]) -> None:
    """Store a table in place of the one that is there, unless that is made of the same."""
    folder, mine = run.folder / "evaluate", made[table]
    if processes.agreed(processes.is_first() and _is_kept(chunk_file(folder, table), mine)):
        say_kept(run, mine, chunk_file(folder, table))
        note(run, mine)
        return
    say_again(run, mine)
    found = rows().with_columns(seed=pl.lit(run.recipe.seed))
    if processes.is_first():
        with explained(folder):
            folder.mkdir(exist_ok=True)
        stages = {stage: each._asdict() | {"key": each.key} for stage, each in closure(made, table).items()}
        save(folder, table, found, provenance.environment() | {"table": table, "stages": stages})
        console.print(f"{table}: {len(found):,} rows")
    note(run, mine)


def _is_kept(path: Folder, made: Made) -> bool:
    return is_whole(path) and made_by_of(path).get("stages", {}).get(made.stage, {}).get("key") == made.key
