"""What is computed again when something changes: exactly what is made of it, and for a reason that is said."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.tldr import corpus, keys, toy
from experiments.tldr.keys import made
from experiments.tldr.run import Run
from experiments.tldr.settings import PRESETS, TABLES, Recipe
from gvgap_jax.lm.data import splits
from gvgap_jax.lm.data.rows import POST, Demonstration
from gvgap_jax.lm.hf import load, save
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.training import layouts

RECIPE = dataclasses.replace(PRESETS["laptop"], data=dataclasses.replace(PRESETS["laptop"].data, limit=150))
SOURCES = {value: value for name, value in vars(keys).items() if isinstance(value, str) and value.startswith("the ")}
SFT, RM, DPO = "sft", "reward_model", "dpo"
ONLINE = ("online_from_sft", "online_from_dpo")
COMPARED = (RM, DPO, *ONLINE, *TABLES)  # all that is made of the training pairs
ALL = (SFT, "judge", *COMPARED)


def other(recipe, name, value):
    """The recipe with another value of an option."""
    group, _, field = name.rpartition(".")
    if group:
        return dataclasses.replace(recipe, **{group: dataclasses.replace(getattr(recipe, group), **{field: value})})
    return dataclasses.replace(recipe, **{field: value})


def again(recipe, now, sources=SOURCES, changed=()):
    """Stages of the second recipe that are not found under the keys of the first."""
    before, after = made(recipe, sources), made(now, sources | {name: "another" for name in changed})
    return {stage for stage in after if stage not in before or after[stage].key != before[stage].key}


OPTIONS = {
    "sft.epochs": (2.0, ALL),
    "sft.batch": (16, ALL),
    "sft.learning_rate": (0.1, ALL),
    "rm.epochs": (3.0, (RM, "judge", *ONLINE, *TABLES)),
    "rm.accumulate": (2, (RM, "judge", *ONLINE, *TABLES)),
    "dpo.schedule": ("constant", (DPO, *ONLINE, *TABLES)),
    "beta": (0.25, (DPO, *ONLINE, *TABLES)),
    "samples": (4, (*ONLINE, "answers", "verdicts")),
    "temperature": (0.5, (*ONLINE, "answers", "verdicts")),
    "chunk": (32, (*ONLINE, "answers", "verdicts")),
    "evaluation_temperature": (0.5, ("answers", "verdicts")),
    "endpoint": (dataclasses.replace(RECIPE.endpoint, model="m"), ("verdicts",)),
    "rm_size": ("small", ("rm_sft", RM, "judge", *ONLINE, *TABLES)),
    "gold_model": ("gold", ("verdicts",)),
    "narrow": (True, COMPARED),
    "rouge_l": (True, COMPARED),
    "two_words": (True, COMPARED),
    "seed": (1, ALL),
    "dtype": ("bfloat16", ALL),
    "remat": (True, ALL),
    "steps_a_dispatch": (7, (SFT, "judge", *COMPARED)),
    "data.response_tokens": (12, ALL),
    "dispatches": (2, ()),
    "online_prompts": (7, ()),  # which prompts there are decides, not how many were asked for
    "evaluation_prompts": (7, ()),
    "revision": ("main", ()),
    "data.limit": (70, ()),
    "data.held_out": (0.5, ()),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_computes_again_what_reads_it(name):
    value, wanted = OPTIONS[name]
    assert again(RECIPE, other(RECIPE, name, value)) == set(wanted)


CONTENT = {
    keys.MODEL: ALL,
    keys.RM_MODEL: (),
    keys.DEMONSTRATIONS: ALL,
    keys.COMPARISONS: COMPARED,
    keys.REFERENCES: (),
    keys.PROMPTS: (),
    keys.TEXTS: (),
    keys.ONLINE_PROMPTS: (*ONLINE, *TABLES[:2]),
    keys.HELD_OUT: ("judge", "verdicts", "pairs"),
    keys.QUESTIONS: ("answers", "verdicts"),
    keys.GOLD_MODEL: (),
}


@pytest.mark.parametrize("source", CONTENT)
def test_data_compute_again_what_reads_them(source):
    assert again(RECIPE, RECIPE, changed=[source]) == set(CONTENT[source])


ASKED = dataclasses.replace(RECIPE.endpoint, model="m")
VARIANTS = [  # a recipe, what changes, and what is computed again
    ({"rm_size": "small"}, keys.RM_MODEL, ("rm_sft", RM, "judge", *ONLINE, *TABLES)),
    ({"gold_model": "gold"}, keys.GOLD_MODEL, ("verdicts",)),
    ({"gold_model": "gold"}, keys.HELD_OUT, ("pairs",)),
    ({"rouge_l": True}, keys.REFERENCES, COMPARED),
    ({"rouge_l": True}, keys.COMPARISONS, COMPARED),
    ({"narrow": True}, keys.COMPARISONS, ()),  # their labels are not read
    ({"narrow": True}, keys.PROMPTS, COMPARED),
    ({"narrow": True, "labeller": "rouge_l"}, keys.REFERENCES, COMPARED),
    ({"narrow": True, "labeller": "reward_model", "gold_model": "g"}, keys.GOLD_MODEL, COMPARED),
    ({"narrow": True, "labeller": "reward_model", "gold_model": "g"}, keys.TEXTS, COMPARED),
    ({"narrow": True, "labeller": "endpoint", "endpoint": ASKED}, keys.TEXTS, COMPARED),
    ({"narrow": True, "labeller": "rouge_l"}, keys.TEXTS, ()),
]


@pytest.mark.parametrize(("given", "source", "wanted"), VARIANTS)
def test_variants_read_what_they_are_made_of(given, source, wanted):
    recipe = dataclasses.replace(RECIPE, **given)
    assert again(recipe, recipe, changed=[source]) == set(wanted)


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ({"labeller": "rouge_l"}, {"labeller": "gold"}, COMPARED),
        ({"narrow": True, "temperature": 1.0}, {"narrow": True, "temperature": 0.5}, COMPARED),
        ({"endpoint": dataclasses.replace(RECIPE.endpoint, model="one")},
         {"endpoint": dataclasses.replace(RECIPE.endpoint, model="other")}, ("verdicts",)),
        ({"endpoint": dataclasses.replace(RECIPE.endpoint, model="one")},
         {"endpoint": dataclasses.replace(RECIPE.endpoint, model="one", prompt_price=1.0)}, ()),
        ({"endpoint": dataclasses.replace(RECIPE.endpoint, model="one")},
         {"endpoint": dataclasses.replace(RECIPE.endpoint, model="one", parallel=2, timeout=9.0, max_retries=1)}, ()),
        *(({"endpoint": dataclasses.replace(RECIPE.endpoint, model="one")},
           {"endpoint": dataclasses.replace(RECIPE.endpoint, model="one", **changes)}, ("verdicts",))
          for changes in ({"temperature": None}, {"temperature": 1.0}, {"answer_tokens": 9})),
        ({"labeller": "endpoint", "endpoint": dataclasses.replace(RECIPE.endpoint, model="one")},
         {"labeller": "endpoint", "endpoint": dataclasses.replace(RECIPE.endpoint, model="one", temperature=1.0)},
         COMPARED),
    ],
)  # fmt: skip
def test_what_labels_and_judges_counts(before, now, wanted):
    narrow = {"narrow": True} if "labeller" in before else {}
    recipes = [dataclasses.replace(RECIPE, **narrow, **each) for each in (before, now)]
    assert again(*recipes) == set(wanted)


def test_every_option_is_read_by_a_stage_or_known_to_decide_nothing():
    """A new option is in one of both, or old results would be found under it."""
    named = []
    for field in dataclasses.fields(Recipe):
        value = getattr(RECIPE, field.name)
        below = [each.name for each in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        named += [f"{field.name}.{each}" for each in below] or [field.name]
    recipes = [
        RECIPE,
        dataclasses.replace(RECIPE, narrow=True, endpoint=dataclasses.replace(RECIPE.endpoint, model="m")),
    ]
    read = {name for recipe in recipes for each in made(recipe, SOURCES).values() for name in each.options}
    behind = {"labeller", "narrow", "rouge_l"}  # read as label_source, and as which data there are
    known = (read - set(keys.NO_OPTIONS)) | behind | set(keys.NOT_READ)
    assert set(named) == known | set(keys.LATER), "options that came later are read where they are not at their default"
    assert not read & {*keys.NOT_READ, *keys.LATER}
    assert set(keys.LATER) < set(named)


def test_an_option_that_came_later_is_said_to_have_been_at_its_default():
    before, now = (
        dataclasses.replace(RECIPE, endpoint=dataclasses.replace(RECIPE.endpoint, model="m", temperature=temperature))
        for temperature in (0.0, 1.0)
    )
    stages = [made(recipe, SOURCES)["verdicts"] for recipe in (before, now)]
    assert stages[1].since(stages[0]) == "--endpoint.temperature was 0.0 and is 1.0"
    assert stages[0].since(stages[1]) == "--endpoint.temperature was 1.0 and is 0.0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with the files of the toy world, and the run on them."""
    folder = tmp_path_factory.mktemp("keys")
    toy._write_data(folder / "toy", 0)
    toy.write_model(folder / "toy" / "model", layers=1, width=8)
    return folder


def prepared(world, changes=None, **options):
    """What the stages of a run are made of, after its files were changed."""
    data = {}
    for kind in ("comparisons", "demonstrations"):
        lines = (world / "toy" / f"{kind}.jsonl").read_text().splitlines()[:150]
        path = world / f"{kind}.jsonl"
        path.write_text("".join(f"{line}\n" for line in (changes or {}).get(kind, list)(lines)))
        data[kind] = (str(path),)
    recipe = dataclasses.replace(
        RECIPE, model=str(world / "toy" / "model"), data=dataclasses.replace(RECIPE.data, limit=None, **data), **options
    )
    return corpus.prepare(Run(recipe, folder_at(world / "seed-0"), layouts.layout(-1), lambda: False))[0].made


def flipped(lines):
    rows = [json.loads(line) for line in lines]
    return [json.dumps(row | {"choice": 1 - row["choice"]}) for row in rows]


def answered_otherwise(lines):
    rows = [json.loads(line) for line in lines]
    return [json.dumps(row | {"reference": "something else"}) for row in rows]


def with_one_more(lines):
    first = json.loads(lines[0])
    return [*lines, json.dumps(first | {"info": first["info"] | {"post": "my cat is gone ."}})]


def with_other_summaries(held_out):
    """A change of the rows on one side of the split alone."""

    def change(lines):
        rows = [json.loads(line) for line in lines]
        asked = [Demonstration({name: row.get("info", row)[name] for name in POST}, "") for row in rows]
        sides = [bool(splits.split([each], RECIPE.data.held_out)[1]) for each in asked]
        assert 0 < sum(sides) < len(sides)
        new = {"summary": "i am sad", "summaries": [{"text": "i am sad"}, {"text": "i am happy"}]}
        return [
            json.dumps({name: new.get(name, value) for name, value in row.items()} if side == held_out else row)
            for row, side in zip(rows, sides, strict=True)
        ]

    return change


FILES = {
    "held-out demonstrations": ({"demonstrations": with_other_summaries(True)}, {"answers", "verdicts"}),
    "demonstrations that are trained on": ({"demonstrations": with_other_summaries(False)}, set(ALL)),
    "held-out comparisons": ({"comparisons": with_other_summaries(True)}, {"judge", "verdicts", "pairs"}),
    "comparisons that are trained on": ({"comparisons": with_other_summaries(False)}, set(COMPARED)),
    "labels flipped": ({"comparisons": flipped}, {"judge", *COMPARED}),
    "demonstrations reordered": ({"demonstrations": lambda lines: lines[::-1]}, set(ALL)),
    "one comparison appended": ({"comparisons": with_one_more}, set(COMPARED)),
    "other references, which nobody reads": ({"comparisons": answered_otherwise}, set()),
    "blank lines": ({"comparisons": lambda lines: [each for line in lines for each in (line, "")]}, set()),
    "other keys that are not read": (
        {"comparisons": lambda lines: [line[:-1] + ', "worker": 3}' for line in lines]},
        set(),
    ),
    "nothing": ({}, set()),
}


@pytest.mark.parametrize("change", FILES)
def test_a_changed_file_computes_again_what_is_made_of_it(world, change):
    changes, wanted = FILES[change]
    before, after = prepared(world), prepared(world, changes)
    assert {stage for stage in after if after[stage].key != before[stage].key} == wanted


@pytest.mark.parametrize(
    ("options", "changes", "wanted"),
    [
        ({"rouge_l": True}, {"comparisons": answered_otherwise}, COMPARED),
        ({"narrow": True, "labeller": "rouge_l"}, {"comparisons": answered_otherwise}, COMPARED),
        ({"narrow": True, "labeller": "reward_model"}, {"comparisons": with_one_more}, COMPARED),
        ({"narrow": True, "labeller": "rouge_l"}, {"comparisons": flipped}, ("judge", "verdicts", "pairs")),
    ],
    ids=["ROUGE-L on pairs", "ROUGE-L on two words", "a reward model on two words", "labels that are not read"],
)
def test_variants_read_what_their_pairs_are_made_of(world, options, changes, wanted):
    if options.get("labeller") == "reward_model":
        checkpoint = load.open_checkpoint(world / "toy" / "model")
        save.save(world / "reward model", checkpoint, load.load(checkpoint, outputs=1))
        options = options | {"gold_model": str(world / "reward model")}
    before, after = prepared(world, **options), prepared(world, changes, **options)
    assert {stage for stage in after if after[stage].key != before[stage].key} == set(wanted)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"online_prompts": 9}, (*ONLINE, "answers", "verdicts")),
        ({"online_prompts": 511}, ()),  # there are fewer
        ({"evaluation_prompts": 3}, ("answers", "verdicts")),
    ],
    ids=str,
)
def test_how_many_prompts_are_asked_counts_where_there_are_as_many(world, options, wanted):
    before, after = prepared(world), prepared(world, **options)
    assert {stage for stage in after if after[stage].key != before[stage].key} == set(wanted)


def test_other_files_of_the_model_are_another_model(world):
    before = prepared(world)
    settings = world / "toy" / "model" / "tokenizer_config.json"
    given = settings.read_text()
    settings.write_text(given + "\n")
    after = prepared(world)
    settings.write_text(given)
    assert all(after[stage].key != before[stage].key for stage in ALL)
    assert {stage: each.key for stage, each in prepared(world).items()} == {
        stage: each.key for stage, each in before.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta": 0.25}, {"dpo": "--beta was 0.5 and is 0.25", "verdicts": "answers changed"}),
        ({"gold_model": "g"}, {"verdicts": "the gold model changed, judge changed"}),
        (keys.COMPARISONS, {"dpo": "the comparisons changed", "online_from_dpo": "dpo changed, reward_model changed"}),
    ],
)
def test_why_is_said(change, words):
    before = made(RECIPE, SOURCES)
    if isinstance(change, str):
        after = made(RECIPE, SOURCES | {change: "another"})
    else:
        after = made(dataclasses.replace(RECIPE, **change), SOURCES)
    assert {stage: after[stage].since(before[stage]) for stage in words} == words


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "tldr.md"
COLUMNS = ("sft", "reward_model", "judge", "dpo", "online_from_sft", "answers", "verdicts", "pairs")
ENDPOINT = dataclasses.replace(RECIPE.endpoint, model="m")
LABELLED = dataclasses.replace(RECIPE, narrow=True)
JUDGED = dataclasses.replace(RECIPE, gold_model="gold")
ROWS = {  # in the guide's words: for each alternative the recipe, options that change, and data that change
    "the model or its tokenizer": [(RECIPE, {}, [keys.MODEL])],
    "demonstrations, or their order": [(RECIPE, {}, [keys.DEMONSTRATIONS])],
    "comparisons of training prompts": [
        (RECIPE, {}, [keys.COMPARISONS]),
        (RECIPE, {}, [keys.COMPARISONS, keys.PROMPTS, keys.ONLINE_PROMPTS]),
    ],
    "held-out comparisons": [(RECIPE, {}, [keys.HELD_OUT])],
    "held-out comparisons, with `--gold_model`": [(JUDGED, {}, [keys.HELD_OUT])],
    "evaluation prompts, or how many": [(RECIPE, {}, [keys.QUESTIONS])],
    "online prompts, or how many": [(RECIPE, {}, [keys.ONLINE_PROMPTS])],
    "`--seed`, `--dtype`, `--remat`, `--steps_a_dispatch`, `--data.response_tokens`": [
        (RECIPE, {name: value}, [])
        for name, value in (
            ("seed", 1), ("dtype", "bfloat16"), ("remat", True), ("steps_a_dispatch", 1), ("data.response_tokens", 9)
        )
    ],
    "`--sft.*`": [(RECIPE, {f"sft.{name}": 7}, []) for name in ("batch", "learning_rate", "epochs")],
    "`--rm.*`, `--rm_size`, its files": [
        *((RECIPE, {f"rm.{name}": 7}, []) for name in ("batch", "learning_rate", "epochs")),
        (RECIPE, {"rm_size": "other"}, []),
        (dataclasses.replace(RECIPE, rm_size="other"), {}, [keys.RM_MODEL]),
    ],
    "`--two_words`, `--narrow`, `--rouge_l`, `--labeller`": [
        *((RECIPE, {name: True}, []) for name in ("two_words", "narrow", "rouge_l")),
        (LABELLED, {"labeller": "rouge_l"}, []),
    ],
    "`--dpo.*`, `--beta`": [
        *((RECIPE, {f"dpo.{name}": 7}, []) for name in ("batch", "learning_rate", "epochs")),
        (RECIPE, {"beta": 7}, []),
    ],
    "`--samples`, `--temperature`, `--chunk`": [
        (RECIPE, {name: 7}, []) for name in ("samples", "temperature", "chunk")
    ],
    "`--evaluation_temperature`": [(RECIPE, {"evaluation_temperature": 0.5}, [])],
    "`--gold_model`, its files": [(RECIPE, {"gold_model": "gold"}, []), (JUDGED, {}, [keys.GOLD_MODEL])],
    "`--endpoint.model`, `.base_url`, `.temperature`, `.answer_tokens`": [
        (RECIPE, {"endpoint": ENDPOINT}, []),
        *((dataclasses.replace(RECIPE, endpoint=ENDPOINT), {f"endpoint.{name}": 7}, [])
          for name in ("temperature", "answer_tokens")),
        (dataclasses.replace(RECIPE, endpoint=ENDPOINT), {"endpoint.base_url": "https://other/v1"}, []),
    ],
    "`--dispatches`, `--layout.*`, `--endpoint.cap`, `--endpoint.parallel`, keys of rows that nobody reads": [
        (RECIPE, {"dispatches": 7}, []),
        *((dataclasses.replace(RECIPE, endpoint=ENDPOINT), {name: 7}, [])
          for name in ("endpoint.cap", "endpoint.parallel")),
    ],
}  # fmt: skip


def row(words):
    """A row of the guide's table; all alternatives compute the same again."""
    found = set()
    for recipe, options, data in ROWS[words]:
        now = recipe
        for name, value in options.items():
            now = other(now, name, value)
        found.add(frozenset(again(recipe, now, changed=data)) & frozenset(COLUMNS))
    (same,) = found
    return f"| {words} | " + " | ".join("again" if stage in same else "" for stage in COLUMNS) + " |"


@pytest.mark.parametrize("words", ROWS)
def test_the_guides_table_is_what_the_code_does(words):
    assert row(words) in GUIDE.read_text(encoding="utf-8").splitlines()
