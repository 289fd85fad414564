"""The trainings: SFT, reward models, offline DPO, and DPO on one round of the policy's own responses."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.kit.terminal import console
from experiments.tldr import corpus, models, passes
from experiments.tldr.corpus import Corpus, Unseen
from experiments.tldr.models import Model
from experiments.tldr.run import Rows, Run, Stopped, note, say_again, say_kept
from experiments.tldr.settings import ONLINE_FROM, Descended, Recipe, Stage, training
from gvgap_jax import rollouts
from gvgap_jax.lm.model import classes
from gvgap_jax.lm.model.shape import Shape
from gvgap_jax.training import objectives
from gvgap_jax.training.programs import Build
from gvgap_jax.training.train import Keep, Monitor, fit
from gvgap_jax.types import Preferences


def check_sizes(run: Run, text: Corpus, unseen: Unseen, wanted: Sequence[Stage]) -> None:
    """Refuse, before the first of the wanted stages, what a later one would find too few rows for.

    Raises:
      ValueError: a training has no whole batch; names the option.
    """
    pairs, recipe = len(text.comparisons.rows), run.recipe
    trainings: list[tuple[Stage, str, Descended, int]] = [
        ("sft", "demonstrations", "sft", len(text.demonstrations.weight)),
        ("rm", "comparisons", "rm", pairs),
        *([] if recipe.gold_model else [("rm", "held-out comparisons", "rm", len(unseen.pairs.weight))]),
        ("dpo", "comparisons", "dpo", pairs),
        ("online", "online prompts", "dpo", len(corpus.online_prompts(run, text))),
    ]
    for stage, rows, name, number in trainings:
        if stage in wanted:
            try:
                training(name, recipe, number)
            except ValueError as error:
                raise ValueError(f"--stage {stage}, {rows}: {error}") from error


def sft(run: Run, text: Corpus) -> None:
    """Maximum likelihood on demonstrations, of the policy and, if reward models are of another size, of theirs."""
    _train(run, "sft", text.model, lambda: text.demonstrations, "sft")
    if run.recipe.rm_size:
        _train(run, "rm_sft", text.reward_model, lambda: text.demonstrations, "sft")


def rm(run: Run, text: Corpus) -> None:
    """The reward model that RL uses."""
    _score(run, "reward_model", lambda: corpus.training_pairs(run, text))


def judge(run: Run, unseen: Unseen) -> None:
    """The reward model on held-out pairs, where no other one judges."""
    if run.recipe.gold_model is None:
        _score(run, "judge", lambda: unseen.pairs)


def _score(run: Run, stage: str, pairs: Callable[[], Preferences]) -> None:
    """A reward model, from an SFT model."""
    model = models.trained(run, "rm_sft" if run.recipe.rm_size else "sft")
    _train(run, stage, model, pairs, "rm")


def dpo(run: Run, text: Corpus) -> None:
    """Offline DPO on the pairs that the reward model is fitted to."""
    reference = models.trained(run, "sft")

    def pairs() -> Preferences:
        return with_reference(run, "dpo-reference", reference, corpus.training_pairs(run, text))

    _train(run, "dpo", reference, pairs, "dpo")


def online_dpo(run: Run, text: Corpus) -> None:
    """DPO on the best against the worst of several responses, once from the SFT policy and once from DPO's."""
    for start in ONLINE_FROM:
        stage, policy = f"online_from_{start}", models.trained(run, start)
        reference, reward_model = models.trained(run, "sft"), models.trained(run, "reward_model")
        pairs = partial(_online_pairs, run, text, stage, policy, reference, reward_model)
        _train(run, stage, policy, pairs, "dpo")


def _online_pairs(run: Run, text: Corpus, stage: str, policy: Model, reference: Model, reward_model: Model):
    prompts = corpus.online_prompts(run, text)
    drawn = passes.sampled(run, f"{stage}-samples", policy, prompts, run.recipe.samples, run.recipe.temperature)
    reward = passes.rewards(run, f"{stage}-rewards", reward_model, prompts, drawn)
    return with_reference(run, f"{stage}-reference", reference, best_against_worst(prompts, drawn, reward))


def best_against_worst(prompts: Rows, drawn: Rows, reward: Rows) -> Preferences:
    """Pairs of the best and the worst of the responses [N, m, H] to each prompt [N, P], by their rewards [N, m].

    Margins are 0. All tokens stay in the memory of the host: m times the prompts would not fit into a device's.
    """
    numbers = jnp.arange(reward.size)[:, None]
    unknown = jnp.zeros(numbers.shape)
    pairs = rollouts.top_against_bottom(rollouts.Rollout(numbers, numbers, jnp.asarray(reward), unknown, unknown))
    best, worst = (np.asarray(side)[:, 0] for side in (pairs.chosen, pairs.rejected))
    responses: Rows = drawn.reshape(reward.size, -1)
    return pairs._replace(prompts=prompts[best // reward.shape[1]], chosen=responses[best], rejected=responses[worst])


def with_reference(run: Run, name: str, reference: Model, pairs: Preferences) -> Preferences:
    """The pairs with the reference policy's margins, in nats."""
    both = np.stack([pairs.chosen, pairs.rejected], axis=1)
    chosen, rejected = passes.log_probs(run, name, reference, pairs.prompts, both).T
    return pairs._replace(reference_margin=(chosen - rejected).astype(np.float32))


def built(name: Descended, shape: Shape, recipe: Recipe) -> Build:
    """What a training minimises on its rows."""
    batch = getattr(recipe, name).batch
    if name == "rm":
        verifier = classes.transformer_verifier(shape)
        return lambda pairs: objectives.reward_model(verifier, pairs, batch=batch)
    policy = classes.transformer_policy(shape, recipe.data.response_tokens)
    if name == "sft":
        return lambda rows: objectives.sft(policy, rows, batch=batch)
    return lambda pairs: objectives.dpo(policy, pairs, batch=batch, beta=recipe.beta)


def outputs_of(name: Descended) -> int | None:
    """Numbers that the head of the trained model gives; None for the vocabulary."""
    return 1 if name == "rm" else None


def _train(run: Run, stage: str, model: Model, rows: Callable[[], Any], name: Descended) -> None:
    """Train from a checkpoint and store the result; nothing if that is done.

    Raises:
      Stopped: the run was asked to stop; it goes on from there.
      ValueError: the training was not finite.
    """
    made, descent = run.made[stage], getattr(run.recipe, name)
    if models.is_done(run, stage):
        say_kept(run, made, run.place(stage))
        note(run, made)
        return
    say_again(run, made)
    data = rows()
    number = data.weight.shape[0]
    settings = training(name, run.recipe, number)
    seen = _what_is_seen(number, descent.batch, settings.steps)
    console.print(f"{stage}: {seen}", highlight=False, soft_wrap=True)
    trained = fit(
        built(name, model.shape, run.recipe),
        data,
        settings,
        run.key(stage),
        descent.learning_rate,
        start=models.parameters(run, model, outputs_of(name)),
        layout=run.layout,
        keep=Keep(run.place(stage) / "training", made._asdict(), run.recipe.dispatches),
        monitor=Monitor(progress=True, stopped=run.stopped),
    )
    if not trained.finished:
        raise Stopped
    if not trained.fit.converged:
        raise ValueError(f"{stage} {trained.status[0]}. Choose a lower --{name}.learning_rate.")
    console.print(f"{stage} {trained.status[0]}")
    models.store(run, stage, model, trained.fit.params)
    note(run, made)


def _what_is_seen(rows: int, batch: int, steps: int) -> str:
    """Rows, batches, steps and passes of a training; what is left of its last batch begins another pass."""
    passes, more = divmod(steps * batch, rows)
    seen = [f"every row {passes} time{'s' * (passes > 1)}"] if passes else []
    seen += [f"{more:,} of them once{' more' * (passes > 0)}"] if more else []
    return f"{rows:,} rows in batches of {batch:,}, {steps:,} steps: {', and '.join(seen)}"
