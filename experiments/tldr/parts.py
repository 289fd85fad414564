"""All parts of a run of one seed, in order: what each computes, how often, and on how many rows at a time."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from experiments.tldr import toy
from experiments.tldr.settings import ARMS, ONLINE_FROM, TOY, Descended, Descent, Recipe, Stage, steps
from gvgap_jax.lm.budget import flops, memory
from gvgap_jax.lm.budget.memory import Memory
from gvgap_jax.lm.budget.work import Of, Platform, Work
from gvgap_jax.lm.hf import load
from gvgap_jax.lm.model.pythia import pythia
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.runtime.chips import Chip

DEMONSTRATIONS, COMPARISONS = 116_722, 92_858  # of TL;DR (arXiv 2403.17031, table 1), where a run's are not known yet


class Numbers(NamedTuple):
    """Rows of a run's data.

    Attributes:
      demonstrations, comparisons: that are trained on.
      unseen: held-out comparisons.
      prompts: of the online round.
      questions: that every arm answers.
    """

    demonstrations: int
    comparisons: int
    unseen: int
    prompts: int
    questions: int


class Kind(NamedTuple):
    """What is done with a model: the memory of it, its operations on all devices, and the hours of so many batches."""

    needed: Callable[[Work], Memory]
    flops: Callable[[Work], float]
    hours: Callable[[Work, Chip, int], float]


TRAINING = Kind(memory.training, flops.training_flops, flops.training_hours)
SCORING = Kind(memory.scoring, flops.scoring_flops, flops.scoring_hours)
SAMPLING = Kind(memory.generation, flops.generation_flops, flops.generation_hours)


@dataclass(frozen=True)
class Task:
    """One part of a stage.

    Attributes:
      name: what is done.
      stage: that it belongs to.
      kind: how a model is used.
      work: on which layout, a batch at a time.
      batches: gradient steps, or chunks of a pass.
      options: of the command line that change what it needs.
      training: by the settings of this name; None for a pass.
      samples: of a pass, responses a prompt: drawn together, or scored one after another.
      temperature: that they are drawn at.
    """

    name: str
    stage: Stage
    kind: Kind
    work: Work
    batches: int
    options: str
    training: Descended | None = None
    samples: int = 1
    temperature: float = 1.0

    @property
    def times(self) -> int:
        """How often the work is done."""
        return self.batches * (self.samples if self.kind is SCORING else 1)

    @property
    def flops(self) -> float:
        """Operations of all of it, on all devices."""
        return self.times * self.kind.flops(self.work)

    def hours(self, chip: Chip) -> float:
        """On so many of that chip as the layout has devices."""
        return self.kind.hours(self.work, chip, self.times)


def shape_of(recipe: Recipe, name: str) -> Shape:
    """Of a checkpoint, from its name or its configuration; no weights are read or fetched.

    Raises:
      ValueError: there is none, or its architecture is not here.
    """
    if name == TOY:
        shape = toy.shape_of_model(tokens=None if recipe.in_toy_world else toy.OWN_TOKENS)
    elif size := re.fullmatch(r"EleutherAI/pythia-([\w.]+?)(-deduped)?", name):
        shape = pythia(size[1])
    else:
        shape = load.shape_of(name, recipe.revision if name == recipe.model else None)
    return dataclasses.replace(shape, dtype=recipe.dtype, remat=recipe.remat)


def numbers_of(recipe: Recipe) -> Numbers:
    """Rows before the data are read: those of the toy world, or of TL;DR."""
    toys = toy.DEMONSTRATIONS, toy.COMPARISONS
    shown, compared = toys if recipe.in_toy_world else (DEMONSTRATIONS, COMPARISONS)
    limit = recipe.data.limit or shown + compared
    shown, compared = min(shown, limit), min(compared, limit)
    unseen, prompts = math.ceil(recipe.data.held_out * compared), min(recipe.online_prompts or compared, compared)
    return Numbers(shown, compared, unseen, prompts, recipe.evaluation_prompts)


def tasks_of(recipe: Recipe, sizes: dict[str, int], numbers: Numbers, platform: Platform = "gpu") -> list[Task]:
    """All parts of a run of one seed, on devices of so many along each axis of a layout, all of one platform."""
    policy = shape_of(recipe, recipe.model)
    verifier = shape_of(recipe, recipe.rm_size) if recipe.rm_size else policy
    short, arms = recipe.data.response_tokens, len(ARMS) - 1  # best of n is drawn apart
    long = short if recipe.resampled else recipe.data.compared_tokens
    shown, compared, unseen, prompts, questions = numbers

    def work(shape: Shape, kind: Of, rows: int, responses: int, stored: int = 0, parts: int = 1):
        lengths = recipe.data.prompt_tokens, responses
        one = Work(shape, kind, rows, *lengths, accumulate=parts, stored_rows=stored)
        return dataclasses.replace(one, platform=platform, **sizes)

    def trained(
        name: str, stage: Stage, shape: Shape, by: Descended, responses: int, stored: int, times: int = 1
    ) -> Task:
        how: Descent = getattr(recipe, by)
        kind: Of = "reward_model" if by == "rm" else by
        one = work(shape, kind, how.batch, responses, stored, how.accumulate)
        options = f"--{by}.accumulate, --layout.fsdp, --remat"
        return Task(name, stage, TRAINING, one, times * steps(how, stored), options, by)

    def scored(
        name: str, stage: Stage, shape: Shape, kind: Of, responses: int, rows: int, samples: int, times: int = 1
    ) -> Task:
        one = work(shape, kind, recipe.chunk, responses)
        return Task(name, stage, SCORING, one, times * chunks(rows), "rows are --chunk", samples=samples)

    def drawn(name: str, stage: Stage, rows: int, samples: int, temperature: float, times: int = 1) -> Task:
        one, options = work(policy, "sft", recipe.chunk * samples, short), f"rows are --chunk times {samples}"
        batches = times * chunks(rows)
        return Task(name, stage, SAMPLING, one, batches, options, samples=samples, temperature=temperature)

    def chunks(rows: int) -> int:
        return math.ceil(rows / recipe.chunk)

    m, warm, twice = recipe.samples, recipe.temperature, len(ONLINE_FROM)
    judge = shape_of(recipe, recipe.gold_model) if recipe.gold_model else verifier
    tasks = [trained("SFT", "sft", policy, "sft", short, shown)]
    if recipe.rm_size:
        tasks += [trained("SFT of the reward model", "sft", verifier, "sft", short, shown)]
    if recipe.resampled:
        tasks += [drawn("pairs: two responses a prompt", "rm", compared, 2, warm)]
    if recipe.relabelled and recipe.label_source == "reward_model":
        tasks += [scored("pairs: their labels", "rm", judge, "reward", long, compared, 2)]
    tasks += [trained("reward model", "rm", verifier, "rm", long, compared)]
    if recipe.gold_model is None:
        tasks += [trained("judge", "rm", verifier, "rm", recipe.data.compared_tokens, unseen)]
    return [
        *tasks,
        scored("reference of DPO", "dpo", policy, "sft", long, compared, 2),
        trained("DPO", "dpo", policy, "dpo", long, compared),
        drawn(f"online: {m} responses a prompt, {twice} times", "online", prompts, m, warm, twice),
        scored("online: their rewards", "online", verifier, "reward", short, prompts, m, twice),
        scored("online: reference", "online", policy, "sft", short, prompts, 2, twice),
        trained("online: DPO", "online", policy, "dpo", short, prompts, twice),
        drawn("evaluation: answers", "evaluate", questions, 1, recipe.evaluation_temperature, arms),
        scored("evaluation: their probabilities", "evaluate", policy, "sft", short, questions, 1, 2 * arms),
        drawn("evaluation: best of n", "evaluate", questions, m, warm),
        scored("evaluation: rewards of best of n", "evaluate", verifier, "reward", short, questions, m),
        scored("evaluation: the judge", "evaluate", judge, "reward", short, questions, 2, len(ARMS)),
        scored("held-out pairs: rewards", "evaluate", verifier, "reward", recipe.data.compared_tokens, unseen, 2),
        scored("held-out pairs: DPO", "evaluate", policy, "sft", recipe.data.compared_tokens, unseen, 2, 2),
    ]
