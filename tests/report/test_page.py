"""The page as HTML: what is there whatever is missing, in which order, and in colours that can be read."""

import re
from pathlib import Path

import pytest

from experiments.kit.findings import LAST, Question
from experiments.questions import questions
from experiments.report import page
from tests.report.pages import CLAIM, CONTROL, Page, asked, missing, whole

STYLES = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
KINDS = {
    "everything missing": missing,
    "some measured": whole,
    "one side missing": lambda: [each for each in whole() if each.backend == "tree"],
    "nothing": list,
}


@pytest.fixture(scope="module", params=KINDS)
def shown(request):
    return Page(page.page(KINDS[request.param](), own=[asked("mine")])), KINDS[request.param]()


def test_each_question_has_one_card_and_its_links_lead_to_something(shown):
    found, evidence = shown
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = {each.name for each in evidence}
    assert {card["id"] for card in found.all("article")} == names | {"own-1"}
    assert {link["href"][1:] for link in found.all("a") if link["href"].startswith("#")} <= set(ids)
    assert {label for _, each in found.tags if (label := each.get("aria-labelledby"))} <= set(ids)
    listed = [link["href"][1:] for link in found.all("a") if link["href"][1:] in names and "aria-label" in link]
    assert sorted(listed) == sorted(names), "each has a link to itself"


def test_the_contents_name_the_explorer_where_there_is_one():
    with_one, without = (page.page(whole(), explorer=fragment) for fragment in ('<h2 id="explorer">Try</h2>', ""))
    assert 'href="#explorer"' in with_one
    assert "#explorer" not in without


def test_headings_go_down_one_step_at_a_time(shown):
    found, _ = shown
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))


def test_pictures_say_what_they_show_and_nothing_comes_from_elsewhere(shown):
    found, evidence = shown
    pictures = [picture for each in [*evidence, asked("mine")] for picture in each.pictures]
    images = found.all("img")
    assert len(images) == len(pictures)
    assert all(image["alt"].startswith("Figure. What it shows: it is large: ") for image in images)
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert not [tag for tag, _ in found.tags if tag in ("script", "link", "iframe", "object", "base")]
    assert all("aria-hidden" in each for each in found.all("svg")), "the numbers stand beside them"
    outside = {link["href"] for link in found.all("a") if not link["href"].startswith(("#", "data:"))}
    assert all(re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", address) for address in outside)


def test_styles_load_nothing():
    assert "url(" not in STYLES
    assert "@import" not in STYLES


def test_missing_questions_come_last_in_grey_with_their_commands():
    found = Page(page.page(whole()))
    cards = [(card["id"], "todo" in card["class"]) for card in found.all("article")]
    measured = {each.name for each in whole() if each.readable}
    assert [name for name, grey in cards if not grey] == sorted(
        measured, key=lambda name: questions()[name].QUESTION.place
    )
    assert [grey for _, grey in cards] == sorted(grey for _, grey in cards), "grey ones are last"
    for each in missing():
        assert each.command in found.cards[each.name]
    lacking = [each for each in whole() if not each.readable]
    assert sum(card.count("Make what is missing with:") for card in found.cards.values()) == len(lacking)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h1_information", ["✗", "contradicted", "1 passed", "24 seeds", "Claim:", "above 0"]),
        (
            "main_table",
            ["?", "undecided: 3 seeds, a verdict needs 16", "✓", "supported", "predicted", "1.70 nats", "1.50"],
        ),
        ("h2_regularisation", ["undecided: no finite interval", "2.00", "no finite interval", "0 passed, 1 undecided"]),
        ("h4_data", ["=", "equal within 0.6 nats", "at 1.5, 0.9 to 2.1", "none"]),
        ("rival_sparse", ["≠", "different: below", "A note."]),
        ("h6b_horizon", ["On transformers", "Make what is missing with:"]),
        ("estimators", ["The figures cannot be drawn."]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_card_says_what_its_records_say(name, words):
    card = Page(page.page(whole())).cards[name]
    for each in words:
        assert each in card


def test_an_interval_without_ends_has_no_picture_and_others_have_theirs():
    endless = CLAIM._replace(estimate=CLAIM.estimate._replace(rule=CLAIM.estimate.rule._replace(
        bounds=lambda values, level: (1.0, float("nan"), float("nan")))))  # fmt: skip
    pictures = [len(Page(page.page([asked("main_table", findings=(one,))])).all("svg")) for one in (CLAIM, endless)]
    assert pictures[1] == 0 < pictures[0]


def test_what_a_reader_ran_is_a_section_of_its_own_and_counts_nowhere():
    mine = asked("my_question", about=Question("mine", "It is mine.", "Nobody said so."))
    assert mine.about.place == LAST
    failing = asked("my run", findings=(CLAIM, CONTROL._replace(estimate=CLAIM.estimate)))
    before, after = (
        Page(page.page([asked("main_table"), *more], own)) for more, own in (((), ()), ((mine,), (failing,)))
    )
    assert "Runs of your own" not in before.text
    assert list(after.cards) == ["main_table", "own-1", "own-2"]
    for counted in ("Controls of all experiments: 1 passed.",):
        assert counted in before.text
        assert counted in after.text
    assert "Controls that do not pass" not in after.text
    assert len([link for link in after.all("a") if link["href"] == "#own-1"]) == 2, (
        "its own link, and back from its figure"
    )


def variables(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


LIGHT = variables(STYLES.split("@media")[0])
SCHEMES = {"light": LIGHT, "dark": LIGHT | variables(STYLES.split("prefers-color-scheme: dark")[1].split("@media")[0])}
PAIRS = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "wash")] + [
    (word, f"{word}-wash") for word in ("supported", "contradicted", "undecided", "equal", "different")
]


def luminance(colour):
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("ink", "ground"), PAIRS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_of_text_can_be_read(scheme, ink, ground):
    dark, light = sorted(luminance(SCHEMES[scheme][name]) for name in (ink, ground))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_both_schemes_name_the_same_colours_and_no_text_has_another():
    assert SCHEMES["light"].keys() == variables(STYLES.split("prefers-color-scheme: dark")[1].split("@media")[0]).keys()
    rules = STYLES.split("* { box-sizing")[1]
    assert set(re.findall(r"(?<![\w-])color: ([^;]+);", rules)) <= {f"var(--{name})" for name in LIGHT} | {"inherit"}
