"""Chunks of passes: what is stored is read, what is damaged is named, set aside and computed again, one chunk of it."""

import dataclasses
import shutil

import numpy as np
import polars as pl
import pytest

from experiments.tldr import passes
from experiments.tldr.run import PASSES, Run, Stopped, in_chunks
from experiments.tldr.settings import PRESETS
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.training import layouts

ROWS = 10


def run_in(folder, stopped=lambda: False, **options):
    recipe = dataclasses.replace(PRESETS["laptop"], **{"chunk": 4, **options})
    return Run(recipe, folder_at(folder / "seed-0"), layouts.layout(-1), stopped)


def computed(folder, of=None, name="scores", **options):
    """The squares of the rows' numbers, and the chunks that were computed."""
    chunks = []

    def compute(number, rows):
        chunks.append(number)
        return {"square": rows**2}

    (folder / "seed-0").mkdir(exist_ok=True)
    found = in_chunks(run_in(folder, **options), name, ROWS, of or {"model": "a"}, lambda: compute)
    assert found["square"].to_list() == [row**2 for row in range(ROWS)]
    return chunks


@pytest.fixture
def stored(tmp_path):
    assert computed(tmp_path) == [0, 1, 2]
    return tmp_path


def second(folder):
    return sorted((folder / "seed-0" / PASSES).glob("scores-*.parquet"))[1]


def rewrite(change):
    def damage(folder):
        path = second(folder)
        path.write_bytes(change(path.read_bytes()))

    return damage


def flipped(place):
    def change(content):
        where = int(place * (len(content) - 1))
        return content[:where] + bytes([content[where] ^ 4]) + content[where + 1 :]

    return change


def a_folder(folder):
    path = second(folder)
    path.unlink()
    path.mkdir()


def of_its_neighbour(folder):
    first = sorted((folder / "seed-0" / PASSES).glob("scores-*.parquet"))[0]
    for end in ("", ".sha256"):
        shutil.copyfile(f"{first}{end}", f"{second(folder)}{end}")


DAMAGES = {
    **{f"a bit at {place}": rewrite(flipped(place)) for place in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)},
    "truncated": rewrite(lambda content: content[:-5]),
    "empty": rewrite(lambda content: b""),
    "longer": rewrite(lambda content: content + b"x"),
    "other digest": lambda folder: second(folder).with_name(f"{second(folder).name}.sha256").write_text("0" * 64),
    "a folder": a_folder,
    "its neighbour under its name": of_its_neighbour,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk_is_named_set_aside_and_computed_again(stored, damage, capsys):
    path = second(stored)
    DAMAGES[damage](stored)
    assert computed(stored) == [1]
    said = " ".join(capsys.readouterr().out.split())
    assert path.name in said
    assert "set aside" in said
    assert list(path.parent.glob("set_aside/*"))
    assert computed(stored) == []


@pytest.mark.parametrize(
    "change",
    [
        {"of": {"model": "b"}},
        {"name": "other"},
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"chunk": 5},
    ],
    ids=str,
)
def test_what_decides_a_pass_decides_where_it_lies(stored, change):
    assert computed(stored, **change)
    assert computed(stored) == [], "and what was there is kept"


def test_a_stopped_pass_goes_on(tmp_path):
    asked = iter([False, True])
    (tmp_path / "seed-0").mkdir()
    compute = lambda number, rows: {"square": rows**2}  # noqa: E731
    with pytest.raises(Stopped):
        in_chunks(run_in(tmp_path, stopped=asked.__next__), "scores", ROWS, {"model": "a"}, lambda: compute)
    assert computed(tmp_path) == [1, 2]


ASKED = {
    "sampled": [
        ("model", "other"),
        ("prompts", np.ones((3, 2), int)),
        ("samples", 3),
        ("temperature", 0.3),
        ("horizon", 9),
    ],
    "rewards": [("model", "other"), ("prompts", np.ones((3, 2), int)), ("responses", np.ones((3, 1, 2), int))],
    "log_probs": [("model", "other"), ("prompts", np.ones((3, 2), int)), ("responses", np.ones((3, 1, 2), int))],
}


@pytest.mark.parametrize("kind", ASKED)
def test_a_pass_is_known_by_all_that_it_is_given(kind, monkeypatch, tmp_path):
    """Nothing else reaches the compiled functions: whatever changes in it changes the place."""
    places = []

    class Model:
        shape = end = 0

        def __init__(self, key):
            self.key = key

    def noted(run, name, rows, of, start):
        places.append(str(of))
        return pl.DataFrame({"tokens": [[0]], "score": [[0.0]]})

    monkeypatch.setattr(passes, "in_chunks", noted)
    for maker in ("sampler", "scorer", "likelihood"):
        monkeypatch.setattr(passes, maker, lambda *_: print)
    given = {"model": "one", "prompts": np.zeros((3, 2), int), "responses": np.zeros((3, 1, 2), int)}
    given |= {"samples": 2, "temperature": 1.0, "horizon": 5}
    wanted = ("model", "prompts", "samples", "temperature") if kind == "sampled" else ("model", "prompts", "responses")

    def ask(**changed):
        values = {name: (given | changed)[name] for name in wanted}
        data = dataclasses.replace(PRESETS["laptop"].data, response_tokens=(given | changed)["horizon"])
        getattr(passes, kind)(run_in(tmp_path, data=data), "name", Model(values.pop("model")), *values.values())

    ask()
    ask()
    for name, value in ASKED[kind]:
        ask(**{name: value})
    assert places[0] == places[1]
    assert len(set(places)) == 1 + len(ASKED[kind])
