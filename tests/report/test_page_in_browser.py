"""The report in Chromium: on a desktop and a phone, dark, by keyboard, and printed."""

import io
import math
import unicodedata

import pytest

from experiments.report import page
from tests.report.browser import DESKTOP, PHONE, sticks_out
from tests.report.pages import asked, whole

SIZES = {"phone": PHONE, "desktop": DESKTOP}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with cards of every kind: whole, of one side, missing, of an infinite interval, and a reader's own."""
    text = page.page(whole(), own=[asked("a run <i>of mine</i>")])
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("size", SIZES)
def test_a_page_never_scrolls_sideways_folded_or_not(opened, path, size):
    shown = opened(path, SIZES[size])
    assert sticks_out(shown) == []
    shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert sticks_out(shown) == []
    for figure in shown.query_selector_all("figure"):
        shown.goto(f"{path.as_uri()}#{figure.get_attribute('id')}")
        assert sticks_out(shown) == [], "an enlarged figure scrolls in itself"


def test_the_dark_scheme_is_dark_and_its_figures_keep_a_white_ground(opened, path):
    grounds = {}
    for scheme in ("light", "dark"):
        shown = opened(path, color_scheme=scheme)
        colours = shown.evaluate(
            """() => [document.body, document.querySelector(".frame")].map(
              (each) => getComputedStyle(each).backgroundColor)"""
        )
        grounds[scheme] = colours
    assert grounds["light"] == ["rgb(255, 255, 255)", "rgb(255, 255, 255)"]
    assert grounds["dark"] == ["rgb(20, 23, 28)", "rgb(255, 255, 255)"]


def test_the_keyboard_skips_to_the_findings_and_opens_details(opened, path):
    shown = opened(path)
    shown.keyboard.press("Tab")
    focused = (
        "() => { const of = document.activeElement; const box = of.getBoundingClientRect(); return [of.className, "
    )
    assert shown.evaluate(focused + "box.left >= 0 && box.top >= 0] }") == ["skip", True]
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "main"
    shown.focus("#h1_information summary")
    assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.querySelector('#h1_information details').open")


def test_printed_it_has_every_card_with_what_is_folded_and_cuts_no_figure(opened, path):
    pypdf = pytest.importorskip("pypdf")
    shown = opened(path)
    pages = pypdf.PdfReader(io.BytesIO(shown.pdf(format="A4"))).pages
    text = unicodedata.normalize("NFKC", " ".join(each.extract_text() for each in pages))  # fi is one letter in print
    printed = " ".join(text.split())
    for each in whole():
        assert each.question in printed
    assert printed.count("All findings and controls") == len({each.name for each in whole() if each.readable}) + 1
    assert "a number over seeds" in printed, "what is estimated stands in the folded tables"
    shown.emulate_media(media="print")
    cut = """() => [...document.querySelectorAll(".front, figure, tr")].filter(
      (each) => getComputedStyle(each).breakInside !== "avoid").length"""
    assert shown.evaluate(cut) == 0


def test_a_verdict_is_drawn_as_its_numbers_say(opened, path):
    """The bar's circle lies between the ends of its line, and the bound left of them."""
    shown = opened(path)
    places = shown.evaluate(
        """() => ["circle", ".range", ".bound"].map((part) => {
          const box = document.querySelector(`#main_table .result .bar ${part}`).getBoundingClientRect();
          return [box.left, box.right]; })"""
    )
    circle, line, bound = places
    assert bound[1] < line[0] < circle[0] < circle[1] < line[1]
    assert math.isclose(sum(circle), sum(line), abs_tol=1.0), "1.5 is in the middle of 1 to 2"
