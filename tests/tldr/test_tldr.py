"""The recipe, from a random checkpoint to a report, and what becomes of it when it is disturbed."""

import dataclasses
import signal

import jax
import numpy as np
import polars as pl
import pytest
import tyro

from experiments.benchmarks import tldr_kills
from experiments.cli.main import main
from experiments.tldr import corpus, judging, models, records, report, stages, toy
from experiments.tldr.options import options_with
from experiments.tldr.run import Run
from experiments.tldr.settings import ARMS, PRESETS, TABLES, Endpoint, training
from gvgap_jax.lm.judges import endpoint, verdicts
from gvgap_jax.lm.model import classes
from gvgap_jax.runtime.files import folder_at, read, save
from gvgap_jax.training import layouts
from tests.tldr.tiny_tldr import OPTIONS

CONFIG = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.PositionalRequiredArgs)


def run(folder, *options):
    main(["run", "tldr", "--out", str(folder), *OPTIONS, *options])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "tldr", *arguments])
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def killed_and_undisturbed(tmp_path_factory):
    """Where a run that was killed twice lies, and one that was not."""
    folder = tmp_path_factory.mktemp("tldr")
    tldr_kills.main(folder, tuple(OPTIONS), stages=("rm",))  # it ends with status 1 if they differ
    return folder


@pytest.fixture
def done(killed_and_undisturbed):
    return killed_and_undisturbed / "undisturbed"


def tables(folder):
    return {table: read(folder / "seed-0" / "evaluate" / f"{table}.parquet") for table in TABLES}


@pytest.mark.slow
def test_every_arm_answers_every_question_and_is_judged(done):
    found = tables(done)
    assert set(found["answers"]["arm"]) == set(ARMS)
    counts = found["verdicts"].group_by("judge", "arm").len()
    assert set(counts["judge"]) == {"gold", "held_out_reward_model"}
    assert len(counts) == 2 * len(ARMS)
    assert counts["len"].unique().to_list() == [len(found["answers"]) // len(ARMS)]


@pytest.mark.slow
def test_a_gold_verdict_compares_gold_rewards_with_the_human_answer(done):
    found = tables(done)
    dpo = found["answers"].filter(arm="dpo").sort("question")
    wins = found["verdicts"].filter(judge="gold", arm="dpo").sort("question")["win"].to_list()
    humans = toy.gold(dpo["prompt"].to_list(), dpo["human"].to_list())
    assert wins == [(reward > human) + (reward == human) / 2 for reward, human in zip(dpo["gold"], humans, strict=True)]


@pytest.mark.slow
def test_the_report_has_its_numbers_from_the_tables(done):
    found = records.evaluated(folder_at(done)).tables
    summary = report.summary(found)
    wins = found["verdicts"].filter(judge="gold", arm="sft")["win"]
    assert summary.filter(judge="gold", arm="sft")["win_rate"].item() == pytest.approx(100 * wins.mean())
    claim = next(each for each in report.findings(found) if each.claim == "gold: win rate of DPO less that of SFT")
    both = [
        found["verdicts"].filter(judge="gold", arm=arm).sort("question")["win"].to_numpy() for arm in ("dpo", "sft")
    ]
    assert claim.interval.estimate == pytest.approx(100 * np.mean(both[0] - both[1]))
    assert "they say nothing of other seeds" in report.over(found)
    assert "No verdict: Its world is a toy" in (done / "report.html").read_text()
    assert (done / "tldr.png").exists()


def test_intervals_are_over_seeds_where_there_are_several():
    rows = pl.DataFrame({"seed": [0, 0, 1, 1], "win": [0.0, 1.0, 1.0, float("nan")]})
    found = report.estimate(rows, pl.col("win")).at()
    assert (found.estimate, found.seeds, found.unit) == (0.75, 2, "seeds")
    alone = report.estimate(rows.filter(seed=0), pl.col("win")).at()
    assert (alone.seeds, alone.unit) == (2, "prompts")


def test_judges_are_compared_prompt_by_prompt():
    verdicts = [("one", [1.0, 0.0, 1.0, 0.5]), ("other", [1.0, 1.0, 1.0, 1.0])]
    columns = {"seed": 0, "arm": ["sft", "dpo"] * 2, "question": [0, 0, 1, 1]}
    rows = [
        pl.DataFrame({"judge": judge, **columns, "win": wins, "position_bias": [0.0, 0.0, 0.0, judge == "other"]})
        for judge, wins in verdicts
    ]
    agreement, bias = report._of_judges(pl.concat(rows))
    assert (agreement.interval.estimate, agreement.interval.seeds) == (0.625, 2)
    assert bias.claim == "other: wins of what is shown first"
    assert bias.interval.estimate == 0.25


@pytest.mark.slow
def test_what_is_done_is_not_done_again(done, capsys):
    before = {path: path.stat().st_mtime_ns for path in done.glob("seed-0/passes/*")}
    run(done, "--stage", "dpo")
    assert "dpo: kept" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in done.glob("seed-0/passes/*")}


def test_a_stage_needs_the_one_before(tmp_path, capsys):
    assert "run --stage sft first, or --stage all" in refused(
        capsys, "--out", str(tmp_path), *OPTIONS, "--stage", "dpo"
    )


def test_a_variant_needs_someone_who_labels(capsys):
    said = refused(capsys, "--model", "somewhere", "--narrow")
    assert "only the toy world has a gold verifier: choose --labeller" in said


def a_run_beside(done, capsys, **changes):
    """The finished run, as if its recipe had been another one, with its text."""
    recipe = tyro.cli(options_with([]), args=OPTIONS, config=CONFIG, use_underscores=True).recipe
    run = Run(dataclasses.replace(recipe, **changes), folder_at(done / "seed-0"), layouts.layout(-1), lambda: False)
    run, text, _ = corpus.prepare(run)
    capsys.readouterr()
    return run, text


@pytest.mark.slow
def test_narrow_pairs_are_sampled_and_labelled_by_the_gold_verifier(done, capsys):
    run, text = a_run_beside(done, capsys, narrow=True)
    pairs = corpus.training_pairs(run, text)
    asked = text.prompts(pairs.prompts)
    chosen, rejected = (toy.gold(asked, text.decoded(side)) for side in (pairs.chosen, pairs.rejected))
    assert len(chosen)
    assert np.all(chosen > rejected)
    assert "pairs relabelled by gold:" in capsys.readouterr().out


@pytest.mark.slow
def test_two_word_pairs_have_two_words(done, capsys):
    plain, _ = a_run_beside(done, capsys)
    run, text = a_run_beside(done, capsys, two_words=True)
    run = run._replace(made={**run.made, "sft": plain.made["sft"]})  # one that has learned to say more
    assert {len(answer.split()) for answer in text.decoded(text.demonstrations.responses)} == {2}
    pairs = corpus.training_pairs(run, text)
    assert {len(answer.split()) for answer in text.decoded(pairs.chosen)} <= {1, 2}


@pytest.mark.slow
def test_rouge_l_prefers_what_is_nearer_to_the_hidden_human_answer(done, capsys):
    run, text = a_run_beside(done, capsys, rouge_l=True)
    pairs, before = corpus.training_pairs(run, text), text.comparisons
    hidden = dict(zip(text.prompts(before.data.prompts), (row.reference for row in before.rows), strict=True))
    humans = [hidden[prompt] for prompt in text.prompts(pairs.prompts)]
    chosen, rejected = (verdicts.rouge_l(text.decoded(side), humans) for side in (pairs.chosen, pairs.rejected))
    assert np.all(chosen > rejected)
    assert not np.array_equal(pairs.chosen, before.data.chosen[: len(chosen)])


@pytest.mark.slow
def test_a_model_goes_through_an_object_store(done, capsys, monkeypatch):
    run, _ = a_run_beside(done, capsys)
    model = models.trained(run, "sft")
    there = run._replace(folder=folder_at("memory://bucket/seed-0"))
    models.store(there, "sft", model, models.parameters(run, model))
    again = models.trained(there, "sft")
    assert again.checkpoint.folder != model.checkpoint.folder
    names = [path.name for path in model.checkpoint.folder.iterdir()]
    assert all(
        (again.checkpoint.folder / name).read_bytes() == (model.checkpoint.folder / name).read_bytes() for name in names
    )


@pytest.mark.slow
def test_an_endpoint_judges_and_is_asked_once(done, capsys, monkeypatch):
    run, _ = a_run_beside(done, capsys, endpoint=Endpoint(model="judge", prompt_price=1.0))
    asked = []

    def stand_in(settings, folder):
        asked.append((settings.model, settings.cap, folder))
        return verdicts.by_score(lambda prompts, responses, references: [len(each) for each in responses])

    monkeypatch.setattr(endpoint, "endpoint", stand_in)
    data = corpus.prepare(run)[2].questions.data
    questions = [verdicts.Question("post", "longer answer", "short"), verdicts.Question("post", "a", "a")]
    ask = judging.judges_of(run)["endpoint"]
    said = ask("endpoint-dpo", judging.Asked(questions, data.prompts, data.responses, data.responses))
    assert said.wins.tolist() == [1.0, 0.5]
    assert asked == [("judge", float("inf"), done / "endpoint")]
    assert "endpoint-dpo: at most 3 requests" in capsys.readouterr().out


def test_the_plan_names_what_fits(capsys):
    said = refused(capsys, "--preset", "pythia-6.9b", "--chip", "v5e", "--devices", "8", "--layout.fsdp", "8")
    assert "SFT: this needs" in said
    assert "nearest that fits: fsdp=16 (16 devices)" in said
    main(["run", "tldr", "--preset", "pythia-410m", "--chip", "H100", "--devices", "8", "--dry_run"])
    assert "demonstrations and 92,858 pairs as in TL;DR" in " ".join(capsys.readouterr().out.split())


def test_a_layout_must_share_the_rows(capsys):
    said = refused(capsys, "--chip", "H100", "--devices", "24", "--dry_run")
    assert "--sft.batch (or its part, with accumulation) of 32 rows does not go into 24 devices" in said
    said = refused(capsys, "--chip", "H100", "--devices", "8", "--layout.fsdp", "3", "--dry_run")
    assert "--layout.data 2, --layout.fsdp 3, --layout.tensor 1 must multiply to 8" in said


def test_the_best_and_the_worst_response_make_a_pair():
    prompts, drawn = np.array([[7], [8]]), np.arange(6).reshape(2, 3, 1)
    pairs = stages.best_against_worst(prompts, drawn, np.array([[0.0, 2.0, 1.0], [5.0, 4.0, 6.0]]))
    assert (pairs.prompts.tolist(), pairs.chosen.tolist(), pairs.rejected.tolist()) == (
        [[7], [8]],
        [[1], [5]],
        [[0], [4]],
    )


@pytest.mark.slow
def test_scores_belong_to_their_pairs(done, capsys):
    run, _ = a_run_beside(done, capsys)
    model, pairs = models.trained(run, "sft"), corpus.prepare(run)[2].pairs
    policy = classes.transformer_policy(model.shape, pairs.chosen.shape[1])
    log_prob = jax.jit(policy.log_prob)
    params = models.parameters(run, model)
    one, other = (log_prob(params, pairs.prompts, side) for side in (pairs.chosen, pairs.rejected))
    found = stages.with_reference(run, "test-pairs", model, pairs).reference_margin
    np.testing.assert_allclose(found, one - other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "epochs", "steps", "seen"),
    [
        (320, 6, 60, "320 rows in batches of 32, 60 steps: every row 6 times"),
        (33, 2, 3, "33 rows in batches of 32, 3 steps: every row 2 times, and 30 of them once more"),
        (63, 1, 2, "63 rows in batches of 32, 2 steps: every row 1 time, and 1 of them once more"),
        (320, 0.1, 1, "320 rows in batches of 32, 1 steps: 32 of them once"),
        (960, 0.7, 21, "960 rows in batches of 32, 21 steps: 672 of them once"),
    ],
)
def test_a_training_sees_all_rows_as_often_as_it_is_told(rows, epochs, steps, seen):
    recipe = PRESETS["laptop"]
    recipe = dataclasses.replace(recipe, sft=dataclasses.replace(recipe.sft, epochs=epochs))
    assert training("sft", recipe, rows).steps == steps
    assert stages._what_is_seen(rows, 32, steps) == seen


def test_a_training_has_rows_for_one_batch_at_least():
    recipe = PRESETS["laptop"]
    with pytest.raises(ValueError, match=r"7 rows are fewer than a batch of --rm.batch 32"):
        training("rm", recipe, 7)


def test_the_gold_verifier_reads_subject_feeling_and_length():
    post = "so it rained all day . then my boss moved out . i am sad ."
    said = ["my boss moved out , i am sad", "i am sad", "my dog moved out , i am sad", "it rained all day"]
    assert toy.gold([post] * 4, said).tolist() == [3.0, 1.0, -1.0, 0.0]
    assert toy.gold([post], ["my boss " + "and " * 8]).item() == pytest.approx(2 - 2 * toy.LONG)


@pytest.mark.slow
def test_killed_runs_end_at_the_same_numbers(killed_and_undisturbed):
    found = pl.read_csv(killed_and_undisturbed / "kills.csv")
    assert found["status"].to_list() == [-signal.SIGKILL, 128 + signal.SIGTERM]
    for table in TABLES:
        assert tldr_kills.same(killed_and_undisturbed / "killed", killed_and_undisturbed / "undisturbed", table)


@pytest.mark.slow
def test_other_numbers_would_be_seen(killed_and_undisturbed, tmp_path):
    folder = tmp_path / "seed-0" / "evaluate"
    folder.mkdir(parents=True)
    rows = read(killed_and_undisturbed / "killed" / "seed-0" / "evaluate" / "verdicts.parquet")
    save(folder_at(folder), "verdicts", rows.with_columns(win=1 - pl.col("win")), {})
    assert not tldr_kills.same(killed_and_undisturbed / "killed", tmp_path, "verdicts")
