"""The recipe's report on made-up tables in which every answer is known: directions of claims, and failing controls."""

import numpy as np
import polars as pl
import pytest

from experiments.tldr import records, report
from experiments.tldr.settings import AGAIN, BEST_OF_N, TABLES
from gvgap_jax.runtime.files import folder_at, save

PROMPTS = 2000  # enough that a control can be decided
WINS = {"sft": 0.25, AGAIN: 0.25, "dpo": 0.5, "online_from_sft": 0.75, "online_from_dpo": 1.0, BEST_OF_N: 0.75}
NUMBERS = np.random.default_rng(0)


def share(rate):
    """Wins of so many of the prompts, in an order of its own."""
    return NUMBERS.permutation(np.arange(PROMPTS) < rate * PROMPTS).astype(float)


def tables(wins=WINS, bias=0.0):
    """Verdicts, answers and pairs in which arms win so often, and the local reward orders every pair wrongly."""
    verdicts = [
        pl.DataFrame({"seed": 0, "judge": "gold", "arm": arm, "question": np.arange(PROMPTS), "win": share(rate),
                      "position_bias": bias * np.ones(PROMPTS)})
        for arm, rate in wins.items()
    ]  # fmt: skip
    answers = [
        pl.DataFrame({"seed": 0, "arm": arm, "question": np.arange(PROMPTS), "rouge_l": share(rate / 2),
                      "log_ratio": rate * np.ones(PROMPTS), "tokens": np.full(PROMPTS, 7)})
        for arm, rate in wins.items()
    ]  # fmt: skip
    pairs = [
        pl.DataFrame({"seed": 0, "rewards": name, "pair": np.arange(PROMPTS), "margin": margin + np.zeros(PROMPTS)})
        for name, margin in (("global", 2.0), ("local", -1.0))
    ]
    return {"verdicts": pl.concat(verdicts), "answers": pl.concat(answers), "pairs": pl.concat(pairs)}


def found(**changed):
    return {each.claim: each for each in report.findings(tables(**changed))}


@pytest.mark.parametrize(
    ("claim", "estimate"),
    [
        ("gold: win rate of online DPO from SFT less that of DPO", 25),
        ("gold: win rate of online DPO from DPO less that of DPO", 50),
        ("gold: win rate of best of n less that of DPO", 25),
        ("gold: win rate of DPO less that of SFT", 25),
        ("ROUGE-L of online DPO from DPO less that of DPO", 25),
        ("held-out pairs: accuracy, global less local", 100),
        ("held-out pairs: log-likelihood, global less local", np.log1p(np.exp(1)) - np.log1p(np.exp(-2))),
    ],
)
def test_every_claim_has_its_sign_and_scale(claim, estimate):
    finding = found()[claim]
    assert finding.interval.estimate == pytest.approx(estimate)
    assert (finding.direction, finding.bound, finding.control) == ("above", 0, False)


def test_what_is_drawn_anew_must_not_win_and_the_control_fails_if_it_does():
    claim = "gold: win rate of SFT, drawn anew less that of SFT"
    assert found()[claim].control
    assert found()[claim].passes
    for rate in (0.0, 1.0):
        assert not found(wins=WINS | {"sft": 0.5, AGAIN: rate})[claim].passes


def test_a_judge_who_is_swayed_by_the_order_fails_its_control():
    claim = "gold: wins of what is shown first"
    assert claim not in found(), "no bias was seen"
    for bias in (-1.0, 1.0):
        swayed = found(bias=bias)[claim]
        assert (swayed.control, swayed.passes, swayed.interval.estimate) == (True, False, bias)


def test_the_table_has_the_rate_the_nats_and_the_length_of_every_arm():
    rows = {row["arm"]: row for row in report.summary(tables()).iter_rows(named=True)}
    for arm, rate in WINS.items():
        assert rows[arm]["win_rate"] == pytest.approx(100 * rate)
        assert rows[arm]["log_ratio"] == pytest.approx(rate)
        assert (rows[arm]["tokens"], rows[arm]["undecided"]) == (7, 0)


MAKER = {"created": "2025-01-01", "devices": 1, "device": "cpu", "versions": {"jax": "0"}, "revision": "abc"}


def stage(key="k", seed=0, **changed):
    """What a file says of a stage."""
    return {
        "key": key,
        "data": {"the comparisons": "1234"},
        "stages": {},
        "options": {"seed": seed, "beta": 0.5},
    } | changed


def write(folder, seeds=2, judges=("held_out_reward_model",), wins=WINS, stages=None):
    """A run as evaluations leave it."""
    for seed in range(seeds):
        place = folder / f"seed-{seed}" / "evaluate"
        place.mkdir(parents=True)
        for name, rows in tables(wins).items():
            rows = rows.with_columns(seed=pl.lit(seed))
            if name == "verdicts":
                rows = pl.concat([rows.with_columns(judge=pl.lit(judge)) for judge in judges])
            made = {"stages": stages(seed, name)} if stages else {}
            save(folder_at(place), name, rows, MAKER | made)
    return folder_at(folder)


def alike(seed, table):
    return {"dpo": stage(f"dpo of {seed}", seed), table: stage(f"{table} of {seed}", seed)}


OFFLINE = {arm: WINS[arm] for arm in ("sft", AGAIN, "dpo", BEST_OF_N)}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"seeds": 1}, "It is one training run"),
        ({"judges": ("gold", "held_out_reward_model")}, "Its world is a toy"),
        ({"wins": OFFLINE}, r"Its online methods are missing (online_from_dpo, online_from_sft)"),
        ({"wins": {arm: WINS[arm] for arm in WINS if arm != "online_from_dpo"}}, "are missing (online_from_dpo)"),
    ],
)
def test_what_cannot_answer_gives_no_verdict_and_says_why(tmp_path, given, why, capsys):
    folder = write(tmp_path, **({"stages": alike} | given))
    found = report.evidence(folder)
    assert found.findings == []
    assert any(note.startswith("No verdict: ") and why in note for note in found.notes)
    assert found.listings[0].rows > 4, "the estimates are there"
    assert found.pictures
    report.write(folder)
    said = " ".join(capsys.readouterr().out.split())
    assert why in said
    assert "verdict" not in said.replace("No verdict", "")
    page = (tmp_path / "report.html").read_text()
    assert "no verdict" in page
    assert why in page


def test_several_seeds_of_a_whole_recipe_have_verdicts(tmp_path, capsys):
    folder = write(tmp_path, stages=alike)
    found = report.evidence(folder)
    assert not any("No verdict" in note for note in found.notes)
    assert found.findings
    assert not found.listings
    assert found.origin["data"] == "the comparisons 1234"
    assert "dpo dpo of 0" in found.origin["stages"]
    report.write(folder)
    assert "verdict" in capsys.readouterr().out


MIXTURES = {
    "other data": (
        lambda seed, table: {"dpo": stage(f"{seed}", seed, data={"the comparisons": str(seed)})},
        "seed-0 and seed-1 are of different data or options (dpo data the comparisons 0 there, 1 now)",
    ),
    "other options": (
        lambda seed, table: {"dpo": stage(f"{seed}", seed, options={"beta": seed})},
        "seed-0 and seed-1 are of different data or options (dpo options beta 0 there, 1 now)",
    ),
    "another judge": (
        lambda seed, table: {} if seed else {"judge": stage("judge")},
        "seed-0 and seed-1 are of different data or options",
    ),
    "an earlier version's": (
        lambda seed, table: alike(seed, table) if seed else {},
        "seed-0 and seed-1 are of different data or options",
    ),
    "tables of different runs": (
        lambda seed, table: {"dpo": stage("one" if table == TABLES[0] else "other", seed)},
        "verdicts and another table are of different runs (dpo is other and one)",
    ),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixtures_are_refused_and_the_page_says_why(tmp_path, mixture):
    stages, words = MIXTURES[mixture]
    folder = write(tmp_path, stages=stages)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the words are compared below
        records.evaluated(folder)
    assert words in str(refused.value)
    found = report.evidence(folder)
    assert (found.findings, found.pictures, found.readable) == ([], [], False)
    assert words in found.problems[0]


def test_tables_of_earlier_versions_are_shown_with_a_word_of_warning(tmp_path):
    found = report.evidence(write(tmp_path))
    assert found.findings
    assert any("An earlier version made these tables" in note for note in found.notes)


@pytest.mark.parametrize("table", TABLES)
def test_a_seed_without_a_table_is_left_out_and_named(tmp_path, table, capsys):
    folder = write(tmp_path, seeds=3, stages=alike)
    (tmp_path / "seed-1" / "evaluate" / f"{table}.parquet").unlink()
    assert set(records.evaluated(folder).tables[TABLES[0]]["seed"]) == {0, 2}
    words = "Not all tables of seed-1 are there"
    assert any(words in note for note in report.evidence(folder).notes)
    report.write(folder)
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_table_is_a_problem_of_the_page(tmp_path, table):
    folder = write(tmp_path, stages=alike)
    path = tmp_path / "seed-1" / "evaluate" / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    (problem,) = report.evidence(folder).problems
    assert f"{table}.parquet is damaged" in problem


def test_a_folder_without_an_evaluation_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"has no evaluated seed: .* --stage evaluate makes one"):
        report.write(folder_at(tmp_path))
