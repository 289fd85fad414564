"""What every stage of a run is made of, and its key: what is kept, and what is computed again, when something changes.

A key is a hash of the content of the data that a stage reads, of the options that decide its numbers, and of the keys
of the stages that it goes on from. Results lie under their key: other data or options never find them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from experiments.tldr.settings import MEANING, ONLINE_FROM, Descent, Recipe, value_of
from gvgap_jax.runtime.messages import first_few

MODEL, RM_MODEL, GOLD_MODEL = "the model", "the reward model's checkpoint", "the gold model"
DEMONSTRATIONS, COMPARISONS, REFERENCES = "the demonstrations", "the comparisons", "the references of the comparisons"
PROMPTS, ONLINE_PROMPTS = "the prompts of the comparisons", "the online prompts"
HELD_OUT, QUESTIONS = "the held-out comparisons", "the evaluation prompts"
TEXTS = "the text of the prompts"  # which judges read in their own way, where the policy may read less of it

COMMON = ("seed", "dtype", "remat", "data.response_tokens")  # options that all stages read
TRAINED = (*COMMON, "steps_a_dispatch")
SAMPLED = (*COMMON, "temperature", "chunk")
ENDPOINT = tuple(f"endpoint.{name}" for name in ("model", "base_url", "templates", "temperature", "answer_tokens"))
LATER = {  # options that came after keys were first made, with what they were before: at that value they are not hashed
    "endpoint.temperature": 0.0,
    "endpoint.answer_tokens": 256,
}
NO_OPTIONS = {  # what else is read, in words
    "meaning": "the version of the recipe",
    "label_source": "who relabels",
    "in_toy_world": "whether it is the toy world",
    "endpoint.templates": "how the endpoint is asked",
}
NOT_READ = (  # options that decide no number, or nothing but what data there are, which are known by their content
    *("model", "revision", "rm_size", "gold_model", "online_prompts", "evaluation_prompts", "dispatches"),
    *(f"data.{name}" for name in ("comparisons", "demonstrations", "split", "held_out", "limit", "form")),
    *("data.prompt_tokens", "data.compared_tokens"),
    *(f"endpoint.{name}" for name in ("key_variable", "cap", "prompt_price", "answer_price", "plain_http")),
    *(f"endpoint.{name}" for name in ("parallel", "timeout", "max_retries")),
)

Sources = Mapping[str, str]  # digests of what a run reads, by the names above


class Made(NamedTuple):
    """What one stage is made of.

    Attributes:
      stage: its name; that of a table, for a table of the evaluation.
      data: digests of what it reads.
      stages: keys of the stages that it goes on from.
      options: values of the options that it reads.
    """

    stage: str
    data: dict[str, str]
    stages: dict[str, str]
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of all of it."""
        return digest(self)[:12]

    def since(self, before: "Made") -> str:
        """Why it is not what it was before: phrases that a sentence ends with."""
        data = [name for name in self.data | before.data if self.data.get(name) != before.data.get(name)]
        stages = [name for name in self.stages | before.stages if self.stages.get(name) != before.stages.get(name)]
        options = [
            f"{NO_OPTIONS.get(name, f'--{name}')} was {_shown(before, name)} and is {_shown(self, name)}"
            for name in before.options | self.options
            if before.options.get(name) != self.options.get(name)
        ]
        changed = [f"{name} changed" for name in (*data, *stages)]
        return first_few([*options, *changed])


def _shown(made: Made, name: str) -> Any:
    return made.options.get(name, LATER.get(name, "not read"))


def digest(value: Any) -> str:
    """Of something that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def made(recipe: Recipe, sources: Sources) -> dict[str, Made]:
    """What every stage of a recipe is made of, in the order in which they are computed."""
    found: dict[str, Made] = {}

    def add(stage: str, data: Sequence[str], stages: Sequence[str], *options: str) -> None:
        read = reduce(dict.__or__, (_option(recipe, name) for name in options), {"meaning": MEANING})
        above = {name: found[name].key for name in stages}
        found[stage] = Made(stage, {name: sources[name] for name in data}, above, read)

    add("sft", (MODEL, DEMONSTRATIONS), (), *TRAINED, "sft")
    if recipe.rm_size:
        add("rm_sft", (RM_MODEL, DEMONSTRATIONS), (), *TRAINED, "sft")
    start = "rm_sft" if recipe.rm_size else "sft"
    compared, labelled = _pairs(recipe)
    above = dict.fromkeys((start, *(("sft",) if recipe.resampled else ())))
    add("reward_model", compared, [*above], *TRAINED, "rm", *labelled)
    if not recipe.gold_model:
        add("judge", (HELD_OUT,), (start,), *TRAINED, "rm")
    add("dpo", compared, ("sft",), *TRAINED, "dpo", "beta", *labelled)
    for policy in ONLINE_FROM:
        above = dict.fromkeys(("sft", policy, "reward_model"))
        add(f"online_from_{policy}", (ONLINE_PROMPTS,), [*above], *TRAINED, *SAMPLED, "samples", "dpo", "beta")
    arms = ("sft", "dpo", *(f"online_from_{policy}" for policy in ONLINE_FROM), "reward_model")
    add("answers", (QUESTIONS,), arms, *SAMPLED, "samples", "evaluation_temperature", "in_toy_world")
    judges = ((GOLD_MODEL,), ("answers",)) if recipe.gold_model else ((), ("answers", "judge"))
    add("verdicts", *judges, "in_toy_world", *(ENDPOINT if recipe.endpoint.model else ()))
    add("pairs", (HELD_OUT,), ("sft", "reward_model", "dpo"), *COMMON, "beta")
    return found


def closure(made: Mapping[str, Made], stage: str) -> dict[str, Made]:
    """A stage and all that it goes on from."""
    above = [closure(made, each) for each in made[stage].stages]
    return {name: each for found in above for name, each in found.items()} | {stage: made[stage]}


def _pairs(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Data and options behind the pairs that reward models and DPO are trained on."""
    if not recipe.relabelled:
        return [COMPARISONS], []
    source = recipe.label_source
    data = [PROMPTS if recipe.resampled else COMPARISONS]
    data += [REFERENCES, DEMONSTRATIONS] if source == "rouge_l" else []
    data += [GOLD_MODEL] if source == "reward_model" else []
    data += [TEXTS] if source in ("reward_model", "endpoint") else []
    options = ["label_source", *(ENDPOINT if source == "endpoint" else ())]
    return data, options + (["two_words", *SAMPLED] if recipe.resampled else [])


def _option(recipe: Recipe, name: str) -> dict[str, Any]:
    """The value of an option, or those of all options of a group."""
    value = value_of(recipe, name)
    if not isinstance(value, Descent):
        return {} if name in LATER and value == LATER[name] else {name: value}
    return {f"{name}.{field}": each for field, each in dataclasses.asdict(value).items()}
