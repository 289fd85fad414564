"""The explorer in a browser, without a network: a control that is moved shows the records' numbers in the picture."""

import itertools
import math
import statistics

import pytest

from experiments.report import explorer, page, words
from tests.report.browser import DESKTOP, PHONE, sticks_out
from tests.report.test_explorer import PAIRS, of, phase_diagram

# What a chart draws of each mark: its row, and its place in pixels.
MARKS = """(chart) => [...document.querySelectorAll(`#explorer-${chart} .mark-symbol.role-mark path`)]
  .map((mark) => mark.__data__).map((item) => ({...item.datum, x: item.x, y: item.y}))"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "report.html"
    path.write_text(page.page([], explorer=explorer.explorer({"phase_diagram": phase_diagram()})), encoding="utf-8")
    return path


def choose(shown, **values):
    """Choose these values, where there is a choice."""
    for name, value in values.items():
        control = shown.locator(f"#explorer-controls [name={name}]")
        if control.is_enabled():
            control.select_option(label=f"{value:g}")


def expected(**at):
    """Mean regret of each method and their ratio at each number of pairs, in plain Python."""
    rows = phase_diagram()["fits"].to_dicts()
    verifier, found = at.pop("verifier_order"), {}
    for pairs in PAIRS:
        here = of(rows, pairs=pairs, **at)
        dpo, rlhf = ([row["regret"] for row in of(here, arm=arm, verifier_order=order)]
                     for arm, order in (("DPO", 0), ("RLHF", verifier)))  # fmt: skip
        ratio = math.exp(statistics.fmean(math.log(one / other) for one, other in zip(dpo, rlhf, strict=True)))
        found |= {("DPO", pairs): statistics.fmean(dpo), ("RLHF", pairs): statistics.fmean(rlhf)}
        found["ratio", pairs] = ratio
    return found


def drawn(shown):
    """The estimates that both charts draw, by arm and pairs."""
    marks = [mark for chart in ("regrets", "ratio") for mark in shown.evaluate(MARKS, chart)]
    return {(mark["arm"], mark["pairs"]): mark["estimate"] for mark in marks}


def said(shown, name):
    return shown.locator(f"#explorer-{name}").inner_text()


def test_the_picture_follows_the_controls(opened, file):
    shown = opened(file, offline=True)
    shown.wait_for_selector("#explorer-rows tr")
    seen = []
    for at in (
        {"horizon": 3, "gold_order": 1, "verifier_order": 1, "beta": 1.0},
        {"horizon": 3, "gold_order": 3, "verifier_order": 1, "beta": 0.5},
        {"horizon": 2, "gold_order": 1, "verifier_order": 2, "beta": 1.0},
    ):
        choose(shown, **at)
        numbers = drawn(shown)
        assert numbers == {key: float(f"{value:.3g}") for key, value in expected(**at).items()}
        seen.append(numbers)
    assert len({str(numbers) for numbers in seen}) == 3


def test_marks_lie_where_their_numbers_are(opened, file):
    shown = opened(file, offline=True)
    shown.wait_for_selector("#explorer-rows tr")
    marks = shown.evaluate(MARKS, "regrets")
    assert len(marks) == 2 * len(PAIRS)
    for place, field in (("x", "pairs"), ("y", "estimate")):
        low, high = (end(marks, key=lambda mark, field=field: mark[field]) for end in (min, max))
        slope = (high[place] - low[place]) / math.log(high[field] / low[field])
        assert slope * (1 if field == "pairs" else -1) > 20
        for mark in marks:
            assert mark[place] == pytest.approx(low[place] + slope * math.log(mark[field] / low[field]), abs=0.01)


def test_the_sentence_and_the_table_follow_too(opened, file):
    shown = opened(file, offline=True)
    shown.wait_for_selector("#explorer-rows tr")
    choose(shown, gold_order=3, verifier_order=3)
    rows = shown.locator("#explorer-rows tr").all_inner_texts()
    numbers = expected(horizon=3, gold_order=3, verifier_order=3, beta=1.0)
    assert [row.split("\t")[0] for row in rows] == ["64", "256", "1,024"]
    for pairs, row in zip(PAIRS, rows, strict=True):
        for arm, cell in zip(("DPO", "RLHF", "ratio"), row.split("\t")[1:4], strict=True):
            assert cell.startswith(f"{words.number(numbers[arm, pairs])} (")
    assert said(shown, "answer").startswith("Two-stage RLHF is better at every number of pairs")
    assert said(shown, "here").startswith("With 1,024 pairs the regret of DPO is")
    shown.locator("[name=pairs]").focus()
    shown.keyboard.press("ArrowLeft")
    assert said(shown, "here").startswith(f"With 256 pairs the regret of DPO is {words.number(numbers['DPO', 256])} (")
    assert shown.locator("#explorer-rows tr[aria-current]").inner_text().startswith("256\t")


def test_controls_offer_only_what_was_run(opened, file):
    shown = opened(file, offline=True)
    shown.wait_for_selector("#explorer-rows tr")

    def offered(name):
        return shown.locator(f"[name={name}] option").all_inner_texts()

    assert [offered(name) for name in ("horizon", "gold_order", "verifier_order", "beta")] == [
        ["2", "3"],
        ["1", "3"],
        ["1", "3"],
        ["0.5", "1"],
    ]
    choose(shown, gold_order=3, verifier_order=3, beta=0.5)
    choose(shown, horizon=2)
    assert [offered(name) for name in ("gold_order", "verifier_order", "beta")] == [["1"], ["1", "2"], ["1"]]
    assert shown.locator("[name=gold_order]").is_disabled()
    choose(shown, horizon=3)
    assert shown.locator("[name=beta] option:checked").inner_text() == "1", "a choice is kept where it exists"
    choose(shown, horizon=2)
    assert drawn(shown)["DPO", 64] == float(
        f"{expected(horizon=2, gold_order=1, verifier_order=1, beta=1.0)['DPO', 64]:.3g}"
    )


def test_a_control_works_by_keyboard_and_has_a_name(opened, file):
    shown = opened(file, offline=True)
    shown.wait_for_selector("#explorer-rows tr")
    before = drawn(shown)
    shown.get_by_label("order of the gold reward").focus()
    shown.keyboard.press("ArrowDown")
    shown.wait_for_function("document.querySelector('[name=gold_order]').selectedOptions[0].text === '3'")
    assert drawn(shown) != before
    for name in shown.locator("#explorer-controls :is(select, input)").all():
        assert name.evaluate("each => each.labels.length && each.labels[0].innerText.trim().length > 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_in_its_width(opened, file, scheme):
    shown = opened(file, PHONE, offline=True, color_scheme=scheme)
    shown.wait_for_selector("#explorer-rows tr")
    assert sticks_out(shown) == []
    for chart in ("regrets", "ratio"):
        assert 250 < shown.locator(f"#explorer-{chart} svg").bounding_box()["width"] <= 390
    ink = shown.evaluate("getComputedStyle(document.querySelector('.explorer')).color")
    texts = "#explorer-regrets .role-axis-label text, #explorer-regrets .role-legend text"
    colours = "each => each.map((text) => getComputedStyle(text).fill)"
    assert set(shown.locator(texts).evaluate_all(colours)) == {ink}


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_texts_of_a_chart_do_not_overlap(opened, file, viewport):
    shown = opened(file, viewport, offline=True)
    shown.wait_for_selector("#explorer-rows tr")
    for chart in ("regrets", "ratio"):
        boxes = shown.locator(f"#explorer-{chart} text").evaluate_all(
            """each => each.filter((text) => text.textContent && getComputedStyle(text).opacity !== "0")
              .map((text) => [text.textContent, text.getBoundingClientRect()])
              .map(([text, box]) => [text, box.left, box.right, box.top, box.bottom])"""
        )
        assert len(boxes) > 8
        edge = shown.locator(f"#explorer-{chart} svg").bounding_box()
        assert max(box[2] for box in boxes) <= edge["x"] + edge["width"] + 1
        for one, other in itertools.combinations(boxes, 2):
            wide, high = (min(one[i + 1], other[i + 1]) - max(one[i], other[i]) for i in (1, 3))
            assert wide <= 1 or high <= 3, (one[0], other[0])


def test_no_script_runs_but_the_explorers(chromium, file, tmp_path):
    text = file.read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'it ran'</script></main>")
    (tmp_path / "other.html").write_text(text, encoding="utf-8")
    with chromium.new_context(offline=True) as context:
        shown = context.new_page()
        shown.goto((tmp_path / "other.html").as_uri())
        shown.wait_for_selector("#explorer-rows tr")
        assert "it ran" not in shown.title()
