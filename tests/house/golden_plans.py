"""Identities of everything that is stored: ``python -m tests.house.golden_plans`` writes them, a test compares.

A plan's chunks are named by the hash of all that decides their records. Where such a name changes, everybody's
records of that experiment are orphaned: the file changes only together with the experiment's ``MEANING``.
"""

import dataclasses
import hashlib
import json
from collections import defaultdict
from pathlib import Path

from experiments.kit.backends import named, on_backend
from experiments.questions import questions
from experiments.tldr import keys as tldr_keys
from experiments.tldr import settings
from gvgap_jax.sweep import make_plan
from gvgap_jax.training.loop import State, Training

GOLDEN = Path(__file__).with_name("golden_plans.json")
BACKENDS = ("tree", "transformer")
SHOWN = 3  # names of chunks that stand there in full; the digest is of all


def keys() -> list[tuple[str, str, str]]:
    """Every experiment, backend and preset; ``tiny`` can change, as nobody keeps its records."""
    return [
        (name, backend, preset)
        for backend in BACKENDS
        for name, module in on_backend(questions(), backend).items()
        for preset in module.PRESETS
        if preset != "tiny"
    ]


def identity(name: str, backend: str, preset: str) -> dict:
    """The chunks of one plan: their number, the first names, and a digest of all names in order."""
    module = on_backend(questions(), backend)[name]
    names = [chunk.name for chunk in make_plan(named(name, backend), module, module.PRESETS[preset]).chunks]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"meaning": module.MEANING, "chunks": len(names), "digest": digest, "first": names[:SHOWN]}


def stages() -> dict:
    """What the recipe's folders, trainings and checkpoints are compared by, where all data and models are nothing."""
    presets = {
        name: {
            variant: tldr_keys.digest(tldr_keys.made(dataclasses.replace(recipe, **given), defaultdict(str)))
            for variant, given in {"": {}, "two words, ROUGE-L": {"two_words": True, "rouge_l": True}}.items()
        }
        for name, recipe in settings.PRESETS.items()
    }
    laptop = settings.PRESETS["laptop"]
    trainings = {stage: dataclasses.asdict(settings.training(stage, laptop, 1000)) for stage in ("sft", "rm", "dpo")}
    fields = {"State": list(State._fields), "Training": [field.name for field in dataclasses.fields(Training)]}
    return json.loads(json.dumps({"presets": presets, "trainings": trainings, "fields": fields}))


def text(value) -> str:
    """A name for a key of the file."""
    return " ".join(value)


if __name__ == "__main__":
    plans = {text(key): identity(*key) for key in keys()}
    GOLDEN.write_text(json.dumps({"plans": plans, "stages": stages()}, indent=1) + "\n", encoding="utf-8")
