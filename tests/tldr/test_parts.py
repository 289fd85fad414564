"""The parts of a run that are planned for, how often each is done by hand, and what is said of them all together."""

import re
from dataclasses import replace

import pytest

from experiments.tldr import parts, plan, toy
from experiments.tldr.options import Options
from experiments.tldr.parts import COMPARISONS, DEMONSTRATIONS, Numbers, numbers_of, shape_of, tasks_of
from experiments.tldr.settings import PRESETS, Descent, Sizes
from gvgap_jax.lm.model.pythia import pythia
from gvgap_jax.runtime.chips import chip_named

LAPTOP = PRESETS["laptop"]
RECIPE = replace(
    LAPTOP,
    data=replace(LAPTOP.data, response_tokens=5, compared_tokens=7),
    sft=Descent(batch=8, learning_rate=0.1, schedule="cosine", epochs=2),
    rm=Descent(batch=4, learning_rate=0.1, schedule="cosine"),
    dpo=Descent(batch=6, learning_rate=0.1, schedule="cosine"),
    samples=3,
    temperature=0.9,
    evaluation_temperature=0.4,
    chunk=8,
)
NUMBERS = Numbers(demonstrations=50, comparisons=33, unseen=9, prompts=17, questions=10)
ONE = {"data": 1, "fsdp": 1, "tensor": 1}
SMALL = "EleutherAI/pythia-70m"

TIMES = {  # rows of a batch, batches, and how often its work is done
    "SFT": (8, 13, 13),  # twice 50 rows
    "reward model": (4, 9, 9),
    "judge": (4, 3, 3),
    "reference of DPO": (8, 5, 10),  # of both responses
    "DPO": (6, 6, 6),
    "online: 3 responses a prompt, 2 times": (24, 6, 6),
    "online: their rewards": (8, 6, 18),
    "online: reference": (8, 6, 12),
    "online: DPO": (6, 6, 6),  # twice 17 rows
    "evaluation: answers": (8, 10, 10),  # two chunks of each of five arms
    "evaluation: their probabilities": (8, 20, 20),  # under the arm and under the reference
    "evaluation: best of n": (24, 2, 2),
    "evaluation: rewards of best of n": (8, 2, 6),
    "evaluation: the judge": (8, 12, 24),  # of all six arms: an answer and the human one
    "held-out pairs: rewards": (8, 2, 4),
    "held-out pairs: DPO": (8, 4, 8),  # of DPO and of the reference
}


def tasks(numbers=NUMBERS, **changes):
    return {task.name: task for task in tasks_of(replace(RECIPE, **changes), ONE, numbers)}


def test_every_part_is_done_as_often_as_the_run_does_it():
    found = tasks()
    assert {name: (task.work.rows, task.batches, task.times) for name, task in found.items()} == TIMES
    chip = chip_named("H100")
    for task in found.values():
        assert task.flops == task.times * task.kind.flops(task.work)
        assert task.hours(chip) == pytest.approx(task.times * task.kind.hours(task.work, chip, 1))
    drawn = {task.name: task.temperature for task in found.values() if task.kind is parts.SAMPLING}
    assert [*drawn.values()] == [0.9, 0.4, 0.9]
    stored = {task.name: task.work.stored_rows for task in found.values() if task.training}
    assert [*stored.values()] == [50, 33, 9, 33, 17]


def test_variants_do_more_and_their_pairs_are_as_long_as_samples():
    drawn = tasks(narrow=True, labeller="reward_model", gold_model=SMALL)
    assert (drawn["pairs: two responses a prompt"].work.rows, drawn["pairs: two responses a prompt"].batches) == (16, 5)
    assert drawn["pairs: their labels"].times == 10
    assert "judge" not in drawn
    for name in ("pairs: their labels", "evaluation: the judge"):
        assert drawn[name].work.shape.layers == pythia("70m").layers
    lengths = {
        name: [task.work.response_tokens for task in found.values()]
        for name, found in {"narrow": drawn, "rouge_l": tasks(rouge_l=True)}.items()
    }
    assert lengths["narrow"] == [5] * (len(drawn) - 2) + [7, 7]
    assert lengths["rouge_l"] == [5, 7, 7, 7, 7, *[5] * 9, 7, 7]


def test_reward_models_of_another_size_have_their_shape_and_their_sft():
    found = tasks(rm_size=SMALL)
    assert found["SFT of the reward model"].times == TIMES["SFT"][-1]
    of_theirs = [name for name, task in found.items() if task.work.shape.layers == pythia("70m").layers]
    assert of_theirs == [
        "SFT of the reward model",
        "reward model",
        "judge",
        "online: their rewards",
        "evaluation: rewards of best of n",
        "evaluation: the judge",
        "held-out pairs: rewards",
    ]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (PRESETS["pythia-1b"], (DEMONSTRATIONS, COMPARISONS, 4643, COMPARISONS, 512)),
        (replace(PRESETS["pythia-1b"], data=replace(PRESETS["pythia-1b"].data, limit=90)), (90, 90, 5, 90, 512)),
        (replace(LAPTOP, online_prompts=7), (toy.DEMONSTRATIONS, toy.COMPARISONS, None, 7, 256)),
        (replace(LAPTOP, online_prompts=10**6), (toy.DEMONSTRATIONS, toy.COMPARISONS, None, toy.COMPARISONS, 256)),
    ],
    ids=["published", "limited", "few prompts", "no more prompts than pairs"],
)
def test_rows_are_those_of_the_toy_world_or_published_and_no_more_than_the_limit(recipe, expected):
    found = numbers_of(recipe)
    assert found == Numbers(*(found[index] if each is None else each for index, each in enumerate(expected)))


def test_a_revision_is_of_the_policys_checkpoint_alone(monkeypatch):
    asked = []

    def shape_of_checkpoint(name, revision):
        asked.append((name, revision))
        return pythia("70m")

    monkeypatch.setattr(parts.load, "shape_of", shape_of_checkpoint)
    recipe = replace(PRESETS["pythia-1b"], model="mine", revision="v2", gold_model="theirs", dtype="float32")
    assert shape_of(recipe, "mine").dtype == "float32"
    shape_of(recipe, "theirs")
    assert asked == [("mine", "v2"), ("theirs", None)]


def shown(capsys, seeds):
    plan.show(Options(PRESETS["pythia-410m"], seeds=seeds, chip="H100", devices=8, layout=Sizes(data=1, fsdp=8)))
    return " ".join(capsys.readouterr().out.split())


def test_the_hours_are_those_of_all_seeds_and_the_largest_part_is_named(capsys):
    recipe, units = PRESETS["pythia-410m"], {"min": 60, "h": 1}
    every = tasks_of(recipe, {"data": 1, "fsdp": 8, "tensor": 1}, numbers_of(recipe), "gpu")
    hours = sum(task.hours(chip_named("H100")) for task in every)
    for seeds in (1, 300):
        said = shown(capsys, seeds)
        number, unit = re.findall(r"([\d,]+) (min|h) in all", said)[0]
        assert int(number.replace(",", "")) == pytest.approx(seeds * hours * units[unit], abs=0.51)
    most = max(every, key=lambda task: task.kind.needed(task.work).total)
    assert f"{most.name} needs most: " in said


@pytest.mark.parametrize(
    ("chip", "platform"),
    [("TPU v5e", "tpu"), ("TPU7x", "tpu"), ("H100", "gpu"), ("RTX 4090", "gpu"), ("cpu", "cpu"), ("Odd (?)", "cpu")],
)
def test_the_platform_of_a_chip(chip, platform):
    assert plan.platform_of(chip_named("cpu")._replace(name=chip)) == platform


def test_rows_are_shared_by_the_devices_that_have_copies_or_parts_of_parameters():
    def sizes(**layout):
        return plan.sizes_of(Options(LAPTOP, layout=Sizes(**layout)), 24)

    assert sizes(data=1, tensor=24) == {"data": 1, "fsdp": 1, "tensor": 24}
    assert sizes(fsdp=2, tensor=12) == {"data": 1, "fsdp": 2, "tensor": 12}
    for uneven in ({"data": 24}, {"data": 1, "fsdp": 24}, {"data": 3, "fsdp": 1, "tensor": 8}):
        with pytest.raises(ValueError, match=r"--sft.batch .* of 32 rows does not go into (24|3) devices"):
            sizes(**uneven)
