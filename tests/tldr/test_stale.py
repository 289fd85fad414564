"""Data change under a finished run: what depends on them is computed again, and nothing else; nothing old is shown."""

import dataclasses
import json
import shutil

import polars as pl
import pytest

from experiments.tldr import evaluation, models, records, toy
from experiments.tldr.run import LATEST, Run
from experiments.tldr.settings import TABLES
from gvgap_jax.runtime.files import Damaged, folder_at, made_by_of, read
from gvgap_jax.training import layouts
from tests.tldr.test_stages import RECIPE, gone_through

MODELS = {"sft", "reward_model", "judge", "dpo", "online_from_sft", "online_from_dpo"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data files and a finished run on them."""
    folder = tmp_path_factory.mktemp("stale")
    toy._write_data(folder / "toy", 0)
    toy.write_model(folder / "toy" / "model", layers=1, width=8)
    for kind in ("comparisons", "demonstrations"):
        lines = (folder / "toy" / f"{kind}.jsonl").read_text().splitlines()[:80]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines))
    gone_through(run_in(folder))
    return folder


@pytest.fixture
def world(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished, tmp_path / "world")


def run_in(folder, **options):
    data = {kind: (str(folder / f"{kind}.jsonl"),) for kind in ("comparisons", "demonstrations")}
    recipe = dataclasses.replace(
        RECIPE, model=str(folder / "toy" / "model"), data=dataclasses.replace(RECIPE.data, **data)
    )
    recipe = dataclasses.replace(recipe, **options)
    return Run(recipe, folder_at(folder / "run" / f"seed-{recipe.seed}"), layouts.layout(-1), lambda: False)


def table(folder, name):
    return read(folder / "run" / "seed-0" / "evaluate" / f"{name}.parquet")


def rewritten(path, change):
    path.write_text("\n".join(change(path.read_text().splitlines())))


def flipped(lines):
    return [json.dumps(row | {"choice": 1 - row["choice"]}) for row in map(json.loads, lines)]


def test_nothing_changed_and_nothing_is_computed(world, capsys):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*.parquet")}
    work = gone_through(run_in(world)).work
    assert (work.fits, work.passes) == ({}, {})
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*.parquet")}
    said = capsys.readouterr().out
    assert all(f"{stage}: kept" in said for stage in (*MODELS, *TABLES))


def test_flipped_labels_are_learned_anew_and_going_back_finds_the_old_results(world, capsys):
    before = {name: table(world, name) for name in TABLES}
    given = (world / "comparisons.jsonl").read_text()
    rewritten(world / "comparisons.jsonl", flipped)
    assert set(gone_through(run_in(world)).work.fits) == MODELS - {"sft"}
    said = capsys.readouterr().out
    assert "sft: kept" in said
    assert "dpo: computed again: the comparisons changed" in said
    assert "judge: computed again: the held-out comparisons changed" in said
    assert not table(world, "pairs").equals(before["pairs"])
    (world / "comparisons.jsonl").write_text(given)
    assert gone_through(run_in(world)).work.fits == {}
    assert "dpo: kept (dpo-" in (said := capsys.readouterr().out)
    assert "made before it was last changed: the comparisons changed)" in said
    assert all(table(world, name).equals(before[name]) for name in TABLES)


def test_reordered_demonstrations_never_stand_beside_old_answers(world):
    before = table(world, "answers").filter(arm="sft")
    rewritten(world / "demonstrations.jsonl", lambda lines: lines[::-1])
    done = gone_through(run_in(world))
    assert set(done.work.fits) == MODELS
    after = table(world, "answers").filter(arm="sft")
    assert after["prompt"].to_list() != before["prompt"].to_list()
    assert after["prompt"].to_list() == done.text.prompts(done.work.passes["evaluate-sft"].prompts)


def test_a_gold_model_judges_a_finished_run_anew(world, capsys):
    before = {name: table(world, name) for name in TABLES}
    judge = gone_through(run_in(world)).run.place("reward_model") / "model"
    capsys.readouterr()
    work = gone_through(run_in(world, gold_model=str(judge))).work
    assert work.fits == {}
    assert "verdicts: computed again: the gold model changed, judge changed" in capsys.readouterr().out
    judges = {each.model for name, each in work.passes.items() if name.startswith("judge-")}
    assert judges == {"reward_model"}
    assert table(world, "answers").equals(before["answers"])
    assert not table(world, "verdicts").equals(before["verdicts"])


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json", "made_of.json"])
def test_a_damaged_model_is_named_set_aside_and_made_again(world, damaged, capsys):
    run = gone_through(run_in(world)).run
    path = next(run.place("dpo").rglob(damaged))
    whole = (run.place("dpo") / "model" / "model.safetensors").read_bytes()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    work = gone_through(run_in(world)).work
    assert set(work.fits) == {"dpo"}
    said = " ".join(capsys.readouterr().out.split())
    assert "is set aside" in said
    assert damaged in said
    assert (run.place("dpo") / "model" / "model.safetensors").read_bytes() == whole
    assert (run.place("dpo") / "set_aside").is_dir()


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_table_is_named_and_made_again(world, name, capsys):
    before = table(world, name)
    path = world / "run" / "seed-0" / "evaluate" / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    with pytest.raises(Damaged):
        records.evaluated(folder_at(world / "run"))
    gone_through(run_in(world))
    assert f"{name}.parquet" in (said := capsys.readouterr().out)
    assert "set aside" in said
    assert table(world, name).equals(before)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"sft": 3}', b"{"])
def test_a_damaged_list_of_what_was_there_decides_nothing(world, content, capsys):
    path = world / "run" / "seed-0" / LATEST
    path.write_bytes(content)
    path.with_name(f"{LATEST}.sha256").unlink()
    assert gone_through(run_in(world)).work.fits == {}
    assert f"{LATEST} is set aside" in " ".join(capsys.readouterr().out.split())


def test_a_killed_store_is_written_over(world):
    run = gone_through(run_in(world)).run
    (run.place("dpo") / "made_of.json").unlink()
    (run.place("dpo") / "model" / "model.safetensors").write_bytes(b"half")
    assert set(gone_through(run_in(world)).work.fits) == {"dpo"}
    assert models.is_done(run, "dpo")


def test_tables_say_what_they_are_of(world):
    run = gone_through(run_in(world)).run
    stages = made_by_of(world / "run" / "seed-0" / "evaluate" / "verdicts.parquet")["stages"]
    assert {name: each["key"] for name, each in stages.items()} == {
        name: run.made[name].key for name in {*MODELS, "answers", "verdicts"}
    }
    described = records.evaluated(folder_at(world / "run")).described
    assert run.made["dpo"].data["the comparisons"][:12] in described["data"]
    assert run.made["dpo"].key in described["stages"]


def test_seeds_of_different_data_are_refused_together(world):
    gone_through(run_in(world, seed=1))
    assert records.evaluated(folder_at(world / "run")).tables["answers"]["seed"].n_unique() == 2
    rewritten(world / "comparisons.jsonl", flipped)
    gone_through(run_in(world, seed=1))
    with pytest.raises(ValueError, match=r"seed-0 and seed-1 are of different data or options .*the comparisons"):
        records.evaluated(folder_at(world / "run"))


def test_tables_of_different_runs_are_refused_together(world, monkeypatch):
    rewritten(world / "comparisons.jsonl", flipped)
    monkeypatch.setattr(evaluation, "_held_out_pairs", lambda *_: pl.DataFrame({"margin": []}))
    whole = evaluation._store

    def killed(run, made, name, rows):
        if name != "pairs":
            whole(run, made, name, rows)

    monkeypatch.setattr(evaluation, "_store", killed)
    gone_through(run_in(world))
    with pytest.raises(ValueError, match=r"pairs and another table are of different runs .* --stage evaluate again"):
        records.evaluated(folder_at(world / "run"))


@pytest.mark.parametrize("name", ["comparisons.jsonl", "demonstrations.jsonl", "model/model.safetensors", toy.SEAL])
def test_a_damaged_toy_world_is_set_aside_and_written_again(tmp_path, monkeypatch, name, capsys):
    write_model = toy.write_model
    monkeypatch.setattr(toy, "write_model", lambda folder: write_model(folder, layers=1, width=8))
    run = Run(RECIPE, folder_at(tmp_path / "seed-0"), layouts.layout(-1), lambda: False)
    path = models.toy_world(run) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (models.toy_world(run) / name).read_bytes() == whole
    assert "set aside" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "set_aside" / "toy" / name).read_bytes() != whole
