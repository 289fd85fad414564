"""The report and the tables of a page over a toy experiment: its records whole, missing, unfinished, stale and odd."""

import dataclasses
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from experiments.cli import main as command
from experiments.cli import report as reporting
from experiments.kit.findings import Finding, Question
from experiments.kit.intervals import estimate, mean
from experiments.kit.per_seed import of_values
from experiments.kit.presets import BACKEND_NAMES
from experiments.questions import questions
from experiments.report import evidence, page, tables, words
from gvgap_jax.runtime import files
from tests.kit.fixed import fixed
from tests.report.toy_questions import PAPER, QUICK, install, toy
from tests.sweep import toy_experiment

REAL = list(questions())
RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of the quick records of two experiments, made by ``run all``."""
    root = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        install(patch, {"toy": toy(), "twin": toy()})
        command.main(["run", "all", "--out", str(root)])
    return root


@pytest.fixture
def records(made, tmp_path, monkeypatch):
    """A copy of the records, to be broken; the experiments are registered."""
    install(monkeypatch, {"toy": toy(), "twin": toy()})
    monkeypatch.setattr(reporting.console, "_width", 300)
    return Path(shutil.copytree(made, tmp_path / "records"))


def test_the_questions_are_back_in_their_order_when_a_patch_ends():
    before = list(questions())
    with pytest.MonkeyPatch.context() as patch:
        install(patch, {"toy": toy()})
        assert list(questions()) == ["toy"]
    assert list(questions()) == before


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def reported(records, *options):
    out = records / "report.html"
    command.main(["report", "--records", str(records), "--out", str(out), *options])
    return Page(out.read_text())


def gathered(records, module=None, preset="quick"):
    return evidence.gather("toy", module or toy(), str(records), preset)


def test_a_page_has_a_card_figure_and_verdict_for_every_experiment(records):
    found = reported(records)
    assert [card["id"] for card in found.all("article")] == ["toy", "twin"]
    alternative = "Figure. What it shows: squares are large: 2.92 nats (no finite interval), undecided: 3 seeds"
    assert [image["alt"].startswith(alternative) for image in found.all("img")] == [True, True]
    for said in ("squares are large", "How large are powers ?", "Numbers are multiplied.", "Said <b>so</b> in",
                  "undecided: 3 seeds, a verdict needs 16", "python -m experiments run toy --preset quick",
                  "All of it.", "Small and empty.",
                  "3 of 6 records of 'even': status 'not converged'", "revision"):  # fmt: skip
        assert said in found.text
    assert "Not measured yet" not in found.text
    assert found.text.count("Primary: squares are large mean over seeds, bootstrap-t interval") == 2
    assert "Primary: cubes" not in found.text
    assert "Controls of all experiments: 0 passed, 2 undecided." in found.text
    assert "regret KL divergence of a policy from the best policy there is" in found.text


def test_a_page_loads_nothing_from_elsewhere(records):
    found = reported(records)
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    assert not [tag for tag, _ in found.tags if tag in ("script", "link", "iframe", "object", "base")]
    assert not [attributes for tag, attributes in found.tags if tag != "a" and "http" in str(attributes.values())]
    styles = (records / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_a_page_can_be_read_by_machines(records):
    found = reported(records)
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("h1")) == 1
    assert len(found.all("table")) == len(found.all("caption")) == 5  # two of each toy, and what was reported
    assert all("scope" in heading for heading in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")} <= set(ids)
    assert {label for _, attributes in found.tags if (label := attributes.get("aria-labelledby"))} <= set(ids)


def test_records_that_are_missing_are_named_with_the_command(records, capsys):
    shutil.rmtree(records / "toy-quick")
    found = reported(records)
    command = f"python -m experiments run toy --preset quick --out {records / 'toy-quick'}"
    printed = capsys.readouterr().out
    assert f"There are no records in {records / 'toy-quick'}." in found.text
    assert command in found.text
    assert command in printed
    assert "1 of 2 experiments complete" in printed
    assert "no verdict" in found.text
    assert len(found.all("img")) == 1


def test_unfinished_sweeps_and_failed_chunks_get_no_verdict(records):
    (lost,) = (records / "toy-quick").glob("even-*.parquet")
    lost.with_suffix(".failed").write_text("RuntimeError: it <rained>\nmore")
    lost.unlink()
    found = gathered(records)
    assert found.problems == [
        f"1 of 2 chunks are missing in {records / 'toy-quick'}.",
        f"Chunk {lost.stem} failed: RuntimeError: it <rained>",
    ]
    assert nothing_shown(found)
    assert "it &lt;rained&gt;" in page.page([found])


def test_records_of_a_smaller_grid_get_no_verdict_and_the_command_that_goes_on_from_them(records):
    found = gathered(records, toy(PRESETS={"quick": PAPER}))
    assert found.problems == [
        f"The records in {records / 'toy-quick'} are of a smaller grid (seeds 3 there, 4 now): the command goes on "
        "from them."
    ]
    assert nothing_shown(found)


def nothing_shown(found):
    return not any((found.findings, found.pictures, found.listings, found.readable))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MEANING": 2}, "meaning 1 there, 2 now"),
        ({"PRESETS": {"quick": dataclasses.replace(QUICK, seeds=2)}}, "seeds 3 there, 2 now"),
        ({"cells": lambda config: toy_experiment.cells(config)[:1] if config.power == 2 else []}, "cut by another"),
    ],
)
def test_stale_records_get_no_verdict(records, change, words):
    found = gathered(records, toy(**change))
    (problem,) = found.problems
    assert "are stale" in problem
    assert words in problem
    assert nothing_shown(found)


def test_another_revision_is_shown_and_no_more(records):
    path = next((records / "toy-quick").glob("even-*.parquet"))
    table, made_by = files.read_with_maker(path)
    files.save(path.parent, path.stem, table, made_by | {"revision": "abc"})
    found = gathered(records)
    assert not found.problems
    assert found.origin["revision"].startswith("abc and ") or " and abc; " in found.origin["revision"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("even-*.parquet", ["1 of 2 chunks are missing", "is damaged: its bytes"]), ("manifest.json", ["cannot be read"])],
)
def test_damaged_records_are_said_to_be_unreadable(records, name, words):
    next((records / "toy-quick").glob(name)).write_bytes(b"{")
    found = gathered(records)
    for problem, word in zip(found.problems, words, strict=True):
        assert word in problem
    assert nothing_shown(found)


def test_what_raises_an_error_is_named_and_the_rest_shown(records):
    def fails(_):
        raise KeyError("no <such> column")

    found = gathered(records, toy(findings=fails))
    assert found.problems == ["The findings cannot be computed: KeyError: 'no <such> column'"]
    assert len(found.pictures) == 1
    found = gathered(records, toy(draw=fails))
    assert found.problems == ["The figures cannot be drawn: KeyError: 'no <such> column'"]
    assert len(found.findings) == 3
    shown = Page(page.page([found])).text
    assert "no <such> column" in shown
    assert "Make what is missing" not in shown


def test_the_most_thorough_complete_records_are_shown(records):
    assert gathered(records, preset=None).preset == "quick"
    shutil.copytree(records / "toy-quick", records / "toy-paper")
    found = gathered(records, preset=None)
    assert (found.preset, found.problems) == ("quick", [])
    assert "preset paper are there too, but: The records in" in found.notes[0]
    same = toy(PRESETS={"tiny": QUICK, "quick": QUICK, "paper": QUICK, "full": QUICK})
    assert gathered(records, same, preset=None).preset == "paper"
    assert gathered(records, toy(MEANING=2), preset=None).preset == "paper"


def test_tables_are_rewritten_between_their_markers(records, tmp_path):
    results = tmp_path / "results.md"
    before = "# a\n<!-- table: verdicts -->\nold | numbers\n<!-- end -->\nb\n<!-- table: figures --><!-- end -->\nc\n"
    results.write_text(before)
    reported(records, "--tables", str(results))
    once = results.read_text()
    reported(records, "--tables", str(results))
    assert results.read_text() == once
    assert re.sub(r"-->.*?<!-- end", "", once, flags=re.DOTALL) == re.sub(
        r"-->.*?<!-- end", "", before, flags=re.DOTALL
    )
    assert "old | numbers" not in once
    assert "| H2 | `toy`, quick | squares are large (mean over seeds, bootstrap-t interval) |" in once
    assert "| 0 passed, 1 undecided |" in once


def test_a_file_without_markers_is_refused():
    with pytest.raises(ValueError, match="no place for the table 'verdicts'"):
        tables.rewritten("# a", {"verdicts": "| a |"})
    with pytest.raises(ValueError, match=r"page\.md has no place for a table: put <!-- table: "):
        tables.asked_for("page.md", "# a", {"verdicts": "| a |"})
    with pytest.raises(ValueError, match=r"page\.md: there is no table 'verdict'; .* Did you mean 'verdicts'"):
        tables.asked_for("page.md", "<!-- table: verdict --><!-- end -->", {"verdicts": "| a |"})


def test_each_file_gets_the_tables_that_it_has_a_place_for(records, tmp_path):
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    for path, name in ((one, "verdicts"), (other, "findings toy")):
        path.write_text(f"a\n<!-- table: {name} -->\n<!-- end -->\nb\n")
    reported(records, "--tables", str(one), str(other))
    assert "| primary finding |" in one.read_text()
    lines = other.read_text().splitlines()
    assert lines[2] == "| finding | on trees | verdict |"
    assert any(line.startswith("| squares are large (mean over seeds") for line in lines)
    assert any(line.startswith("| control: ") for line in lines)


def with_findings(name, backend, *findings):
    """Evidence of a question that has a place in the argument."""
    about = questions()[name].QUESTION
    command = f"python -m experiments run {name} --preset quick"
    return evidence.Evidence(
        name, backend, "", "", about, {}, "quick", "", command, [], [], list(findings), [], [], {"made": "today"}
    )


def test_the_first_pages_quote_the_finding_of_each_row():
    """A row takes its own claim and no other, and is left out where nothing was measured."""
    simple, table, backbone = (
        CLAIM._replace(claim=f"H=4, {words}", estimate=fixed(low, low + 1))
        for words, low in (
            ("simple gold reward (order 1): pairs that DPO needs over those", 1.0),
            ("full table gold reward (order 4): pairs that DPO needs over those", 2.0),
            ("simple gold reward (order 1), reward model of the policy's own backbone: the same ratio", 3.0),
        )
    )
    everywhere = [with_findings("sample_complexity", backend, table, backbone, simple) for backend in BACKEND_NAMES]
    lines = tables.tables(everywhere)["quoted"].splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == [
        "1.50 nats (1.00 to 2.00)", "2.50 nats (2.00 to 3.00)", "1.50 nats (1.00 to 2.00)", "3.50 nats (3.00 to 4.00)"
    ]  # fmt: skip
    assert "| 1.50 nats (1.00 to 2.00) | `run sample_complexity --preset quick` |" in lines[2]


def test_what_was_reported_stands_beside_what_was_measured():
    larger = CLAIM._replace(claim="win rate of DPO less that of SFT", unit="points")
    smaller = larger._replace(estimate=fixed(-2.0, -1.0))
    pair = [with_findings("main_table", "tree", larger), with_findings("main_table", "transformer", smaller)]
    (line,) = [row for row in tables.tables(pair)["reported"].splitlines() if "| DPO less SFT |" in row]
    assert line.endswith("| 1.50 points (1.00 to 2.00): as reported | −1.50 points (−2.00 to −1.00): not as reported |")


def test_the_results_name_figures_that_there_are(tmp_path):
    """A question that is new has its row when the tables are next written."""
    found = [evidence.gather(name, questions()[name], str(tmp_path)) for name in REAL]
    wanted = tables.tables(found)["figures"]
    shown = RESULTS.read_text().split("<!-- table: figures -->")[1].split(tables.END)[0]

    def figures(text):
        return {line.split("|")[1].strip() for line in text.strip().splitlines()}

    assert len(figures(shown)) > 20
    assert figures(shown) <= figures(wanted)


def shown(*findings):
    """The page of one experiment with these findings."""
    module = toy(findings=lambda _: list(findings))
    parts = "", "", module.QUESTION, {}, "quick", "", "", [], [], list(findings), [], [], {"made": "today"}
    return Page(page.page([evidence.Evidence("toy", "tree", *parts)]))


CLAIM = Finding("it is large", fixed(1.0, 2.0), "nats", 0.0, "above", primary=True)
MORE = CLAIM._replace(claim="it is larger", primary=False, level=0.975, estimate=fixed(-1.0, 2.0, excluded=20))
CONTROL = Finding("it is level", fixed(-0.1, 0.1), "nats", 0.0, "at", control=True, margin=0.5)


def test_a_page_says_which_finding_is_primary_and_that_the_others_are_simultaneous():
    found = shown(CLAIM, MORE, CONTROL)
    assert "Primary: it is large a number over seeds 1.50 nats (1.00 to 2.00) above 0" in found.text
    assert "it is larger a number over seeds 0.500 nats (−1.00 to 2.00) 97.5 % interval" in found.text
    assert "so that all of an experiment's hold together with 95 %" in found.text
    assert found.text.count("Primary:") == 1
    assert "2.0% of its records excluded; smallest effect that 24 seeds show with 80% power: 2.04 nats" in found.text


@pytest.mark.parametrize(
    ("bounds", "words", "failing"),
    [
        ((-0.1, 0.1), "experiments: 1 passed.", False),
        ((-1.0, 0.1), "experiments: 0 passed, 1 undecided.", True),
        ((0.6, 0.7), "experiments: 0 passed, 1 failed.", True),
    ],
)
def test_a_page_says_how_the_controls_came_out(bounds, words, failing):
    found = shown(CLAIM, CONTROL._replace(estimate=fixed(*bounds)))
    assert words in found.text
    assert ("Controls that do not pass" in found.text) == failing
    assert "at 0, -0.5 to 0.5" in found.text


def test_the_table_of_verdicts_has_the_primary_finding_and_what_it_estimates():
    open_control, failed = (CONTROL._replace(estimate=fixed(*bounds)) for bounds in ((-1, 1), (1, 2)))
    parts = "", "", toy().QUESTION, {}, "quick", "", "", [], []
    found = evidence.Evidence("toy", "tree", *parts, [MORE, CONTROL, open_control, failed], [], [], {"made": "today"})
    table = tables.tables([found])["verdicts"]
    assert "| primary finding |" in table
    assert "| it is larger (a number over seeds) | 0.500 nats (−1.00 to 2.00) | undecided; 2.0% of its records" in table
    assert "| 1 passed, 1 failed, 1 undecided |" in table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3, "0.300"), (-1.834, "−1.83"), (12345.6, "12,346"), (6.9e-5, "6.90·10⁻⁵"), (174.0, "174"), (2e7, "2.00·10⁷"),
     (math.nan, "–")],
)  # fmt: skip
def test_numbers_are_printed_as_in_a_paper(value, text):
    assert words.number(value) == text


def test_run_report_and_figures_tell_the_points_of_an_axis_apart(records, monkeypatch, capsys):
    def squares(tables):
        return [Finding("squares", estimate(tables["even"], pl.col("value").mean()), "", 1.0, "above")]

    question = Question("H2", "Powers are large.", "Said so.", axes=("power",))
    install(monkeypatch, {"toy": toy(QUESTION=question, findings=squares)})
    told, folder = ["base 0.5: squares", "base 2000: squares"], str(records / "toy-quick")
    capsys.readouterr()
    command.main(["run", "toy", "--preset", "quick", "--out", folder])
    printed = " ".join(capsys.readouterr().out.split())
    assert all(claim in printed for claim in told)
    command.main(["figures", "toy", "--records", folder, "--out", str(records / "figures")])
    drawn = {path.stem for path in (records / "figures").iterdir()}
    assert drawn == {f"{title}_base{base}" for title in ("toy", "toy_rows") for base in ("0.5", "2000")}
    found = reported(records)
    assert all(claim in found.text for claim in told)
    assert len(found.all("img")) == 2


def test_intervals_are_drawn_beside_their_bound():
    number = fixed(2.0, 8.0, estimate=4.0)
    assert words.bar(Finding("", number, "times", 1.0, "above")) == (36, 64, 92, (8,), None)
    assert words.bar(Finding("", number, "nats", 0.0, "above")) == (29, 50, 92, (8,), None)
    assert words.bar(Finding("", number, "nats", 0.0, "at", margin=16.0)) == (55.2, 60.5, 71.0, (8.0, 92.0), None)
    assert words.bar(Finding("", number, "times", 1.0, "above", predicted=64.0)) == (22, 36, 50, (8,), 92)
    assert words.bar(Finding("", mean(of_values([1.0])), "nats", 0.0, "above")) is None
    assert words.between(Finding("", mean(of_values([1.0])), "nats", 0.0, "above")) == "no finite interval"


def test_experiments_stand_in_the_order_of_the_argument(records):
    places = {"theorem 2.2": 90, "rival": 80, "H6": 60, "other": 1000, "main table": 70, "H1": 10}
    there = [gathered(records)._replace(about=Question(label, "", "", place=places[label])) for label in places]
    shown = [section.tree.about.label for section in page.sections(there)]
    assert shown == ["H1", "H6", "main table", "rival", "theorem 2.2", "other"]
