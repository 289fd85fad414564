"""Runs of a question in which every fit is replaced by one that costs nothing and remembers what it was given.

The stand-in for a fit moves its parameters by an amount that depends on each number it was given: training pairs,
held-out pairs, reference policy, beta, reward. So whatever reaches a learner reaches all that follows from it, bit for
bit, and whatever changes nothing here was not given to it. What is tested is the wiring of a question; that its methods
read what they are given is tested in ``tests/core``.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.kit import backends
from experiments.kit.backends import TREE
from experiments.questions import (
    main_table_arms,
    questions,
    rival_implicit_worlds,
    rival_misspecification,
    rival_plateau,
    rival_sparse,
    same_backbone_arms,
    same_backbone_scenes,
    token_tasks,
    token_tasks_arms,
)
from gvgap_jax import HeldOut, TokenTree, algorithms, optimize, policies, preferences, rollouts, tasks, verifiers
from gvgap_jax.sweep import Grid
from gvgap_jax.sweep.grid import points
from gvgap_jax.training import loop
from gvgap_jax.types import Fit

NETWORKS = backends.TRANSFORMER._replace(
    policy=lambda tree, base: policies.mlp_policy(tree, 2, base),
    verifier=lambda tree: verifiers.mlp_verifier(tree, 2),
    critic=policies.tabular_critic,
    network_policy=policies.mlp_policy,
    network_verifier=lambda tree, width, read_out: verifiers.mlp_verifier(tree, width, read_out),
)
"""The other backend's arms and settings, over networks that are traced in no time."""
TOKENS = TokenTree(4, 2, 1)
"""All responses of the token tasks' tiny preset, for policies that take the place of its transformers."""


def on(backend: str):
    """The backend of this name, as it is run here."""
    return TREE if backend == "tree" else NETWORKS


def cells_of(name: str, backend: str = "tree", **changes) -> list:
    """Cells of the first point of a question's tiny preset; ``changes`` are fields of its settings."""
    module = questions()[name]
    module = module if backend == "tree" else backends.on_transformer(module)
    grid = module.PRESETS["tiny"]
    first = {field: values[:1] for field, values in grid.axes.items()} | {field: (changes[field],) for field in changes}
    (config,) = points(module.Config, Grid(first, seeds=1))
    original = questions()[name]
    return original.cells(config, on(backend)) if backends.has_transformer(original) else original.cells(config)


class Outcome(NamedTuple):
    """What one row gave.

    Attributes:
      records: its columns.
      fits: what each fit was given and where it ended, in the order of the calls; ``kind`` says which it was.
      pairs: what the labellers drew, before anything was replaced.
      reward: the gold reward of the row.
    """

    records: dict
    fits: list[dict[str, Any]]
    pairs: list
    reward: Any


def unchanged(reward):
    """The row's own gold reward."""
    return reward


def wired(name: str, cell, backend: str = "tree", poison=unchanged, given=None, patches=(), **changes) -> Outcome:
    """A row whose gold reward is what ``poison`` makes of it; its labels are drawn, or those ``given``.

    ``changes`` are numbers of the cell, ``patches`` what else to replace: (object, name, value).
    """
    module, watch = questions()[name], _Watch(poison, given)
    numbers = {number: jnp.asarray(value) for number, value in {**cell.numbers, "seed": 0, **changes}.items()}
    more = (on(backend),) if backends.has_transformer(module) else ()
    with pytest.MonkeyPatch.context() as patch:
        watch.install(patch)
        for each in patches:
            patch.setattr(*each)
        records = module.run(cell.program, numbers, *more)
    fits = [_fetched(fit) for fit in watch.fits]
    return Outcome(jax.device_get(records), fits, jax.device_get(watch.drawn), np.asarray(watch.reward))


class _Watch:
    def __init__(self, poison, given):
        self.poison, self.given, self.fits, self.drawn, self.reward = poison, given, [], [], None

    def install(self, patch):
        sample, counted, comparisons, pairs, sft, task_of = (
            _SAMPLE, rival_plateau.counted, rival_misspecification.comparisons, rollouts.pairs,
            algorithms.sft, token_tasks_arms.task_of,
        )  # fmt: skip
        for module in (tasks, rival_plateau, rival_implicit_worlds):
            patch.setattr(module, "Task", self.task)
        patch.setattr(token_tasks_arms, "task_of", lambda *given: self.token_task(task_of, *given))
        patch.setattr(preferences, "sample", lambda *given: self.replayed(sample(*given)))
        patch.setattr(rival_plateau, "counted", lambda *given: self.replayed(counted(*given)))
        patch.setattr(rival_misspecification, "comparisons", lambda *given: self.replayed(comparisons(*given)))
        patch.setattr(rollouts, "pairs", lambda *given: self.replayed(pairs(*given)))

        def shown(key, classes, problem, settings):
            shown = problem._replace(demonstrations=self.replayed(problem.demonstrations))
            return sft(key, classes, shown, settings)

        patch.setattr(algorithms, "sft", shown)
        patch.setattr(algorithms, "_fit_margins", self.fit_margins)
        patch.setattr(algorithms, "_descend", self.descend_exactly)
        patch.setattr(optimize, "descend", self.descend)
        patch.setattr(loop, "train", self.train)
        for module in (rival_sparse, main_table_arms, same_backbone_arms, token_tasks_arms):
            patch.setattr(module, "jax", UNROLLED)
        patch.setattr(same_backbone_scenes, "PRETRAINING", 2)
        # What theory says compiles a program for each class, and a process has room for so many (memory maps) alone.
        patch.setattr(same_backbone_arms, "predicted", lambda *_: {})
        patch.setattr(token_tasks, "JUDGED", 8)
        patch.setattr(token_tasks_arms, "CHOOSING", 8)
        patch.setattr(token_tasks_arms, "LEARNING_RATES", token_tasks_arms.LEARNING_RATES[:1])
        patch.setattr(token_tasks_arms, "transformer_policy", lambda shape, horizon: policies.tabular(TOKENS))
        patch.setattr(token_tasks_arms, "transformer_verifier", lambda shape: verifiers.mlp_verifier(TOKENS, 2))

    def task(self, reward, *rest):
        """The row's task, with another gold reward; later ones are the reward models'."""
        if self.reward is None:
            reward = self.reward = self.poison(reward)
        return _TASK(reward, *rest)

    def token_task(self, task_of, *given):
        task, key = task_of(*given)
        checker = task.checker

        def step(prompts, state, position, token):
            state, reward = checker.step(prompts, state, position, token)
            return state, self.poison(reward)

        return task._replace(checker=checker._replace(step=step)), key

    def replayed(self, drawn):
        """What was drawn, or what was given in its place."""
        self.drawn.append(drawn)
        return drawn if self.given is None else jax.tree.map(jnp.asarray, self.given[len(self.drawn) - 1])

    def remember(self, kind, start, settings, **given) -> Fit:
        moved_by = digest(given)
        params = moved(start, moved_by)
        self.fits.append({**given, "kind": kind, "settings": settings, "start": start, "params": params})
        losses = (jnp.asarray(digest(given.get(name, 0.0))) for name in ("train", "held_out"))
        zero = jnp.zeros(())
        return Fit(params, *losses, zero, zero + len(self.fits), jnp.ones((), int), jnp.array(True))

    def fit_margins(self, params, margins, problem, settings, *rest):
        train, held_out = present(problem.train), present(problem.held_out.pairs)
        probe = moved(params, 1.0)
        return self.remember(
            "pairs", params, settings, known=problem.known, train=train, held_out=held_out, rest=rest,
            margins=margins(probe, train) * (train.weight > 0),
            held_out_margins=margins(probe, held_out) * (held_out.weight > 0),
        )  # fmt: skip

    def descend_exactly(self, params, leaf_log_probs, loss, prompt_weight, settings):
        value = loss(leaf_log_probs(moved(params, 1.0)))
        return self.remember("exact", params, settings, loss=value, prompt_weight=prompt_weight)

    def descend(self, key, params, draw, loss, learning_rate, rounds, steps=1):
        batch = draw(jax.random.split(key)[0], params)
        return self.remember(
            "sampled", params, (rounds, steps), batch=batch, loss=loss(moved(params, 1.0), batch),
            learning_rate=learning_rate, key=jax.random.key_data(key),
        )  # fmt: skip

    def train(self, objective, training, learning_rate, key):
        params = objective.init(key)
        batch, probe = objective.draw(key, params, 0), moved(params, 1.0)
        held_out = objective.held_out(probe, objective.loss) if objective.held_out else jnp.zeros(())
        return self.remember(
            "trained", params, training, batch=batch, loss=objective.loss(probe, batch), held_out=held_out,
            learning_rate=learning_rate, key=jax.random.key_data(key),
        )  # fmt: skip


_TASK = tasks.Task
_SAMPLE = jax.jit(preferences.sample, static_argnums=(1, 3))


class _Unrolled:
    """``jax`` whose maps are loops, so that what happens in them can be remembered."""

    def __getattr__(self, name):
        return getattr(jax, name)

    @staticmethod
    def vmap(function, *axes):
        assert not axes

        def mapped(*arguments):
            number = len(jax.tree.leaves(arguments)[0])
            rows = [function(*jax.tree.map(lambda leaf, row=row: leaf[row], arguments)) for row in range(number)]
            return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *rows)

        return mapped

    @property
    def lax(self):
        known = {name: getattr(jax.lax, name) for name in ("switch", "scan", "stop_gradient", "while_loop")}
        return SimpleNamespace(map=lambda function, values: self.vmap(function)(values), **known)


UNROLLED = _Unrolled()


def another(reward):
    """Another gold reward."""
    return reward + 3.0 * _pattern(reward)


def present(pairs):
    """Pairs without what those of weight 0 hold, which nobody may read."""
    pairs = jax.device_get(pairs)

    def kept(leaf):
        there = (pairs.weight > 0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.asarray(np.where(there, leaf, np.zeros((), leaf.dtype)))

    return jax.tree.map(kept, pairs)


def _fetched(fit: dict) -> dict:
    return {name: value if name in ("kind", "settings") else jax.device_get(value) for name, value in fit.items()}


def digest(tree) -> float:
    """A number that depends on every number of a pytree; by NumPy, which compiles nothing for each shape."""
    total = 0.0
    for place, leaf in enumerate(jax.tree.leaves(tree)):
        leaf = np.nan_to_num(np.asarray(leaf, float), nan=77.0, posinf=1e4, neginf=-1e4)
        total += float(np.sum(leaf * (1 + _pattern(leaf, place))))
    return total


def moved(params, by):
    """Parameters moved by up to 0.3, in a way that depends on ``by``."""
    leaves, structure = jax.tree.flatten(params)
    leaves = [
        jnp.asarray(leaf + 0.3 * np.sin(by + 1 + _pattern(leaf, place)).astype(leaf.dtype))
        for place, leaf in enumerate(jax.device_get(leaves))
    ]
    return jax.tree.unflatten(structure, leaves)


def _pattern(leaf, place=0):
    return np.sin(0.7 * np.arange(math.prod(np.shape(leaf))) + place).reshape(np.shape(leaf))


def same(left, right) -> bool:
    """Whether two pytrees are equal bit for bit; settings, which are no numbers, are compared as such."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(_bits(one) == _bits(other) for one, other in pairs)


def _bits(leaf):
    leaf = np.asarray(leaf)
    return str(leaf) if leaf.dtype == object else leaf.tobytes()


def flipped(pairs: list, held_out: bool, every: int = 5) -> list:
    """The same pairs with other labels: of those that are trained on, or of those that are held out."""

    def swapped(drawn):
        if isinstance(drawn, tuple) and len(drawn) == 2 and isinstance(drawn[1], HeldOut):
            train, rest = drawn
            return (train, HeldOut(_swapped(rest.pairs, True))) if held_out else (_swapped(train, True), rest)
        if not isinstance(drawn, preferences.Preferences):
            return drawn
        rows = np.arange(len(drawn.weight)) % every == every - 1
        return _swapped(drawn, rows == held_out)

    return [swapped(drawn) for drawn in pairs]


def _swapped(pairs, rows):
    where = np.reshape(rows, (-1, 1))
    return pairs._replace(
        chosen=np.where(where, pairs.rejected, pairs.chosen),
        rejected=np.where(where, pairs.chosen, pairs.rejected),
        reference_margin=np.where(rows, -pairs.reference_margin, pairs.reference_margin),
    )
