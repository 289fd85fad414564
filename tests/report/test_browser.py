"""The checks that the tests in a browser share see what they are for."""

import pytest

from tests.report.browser import PHONE, sticks_out, watched

WIDE = "<meta name=viewport content='width=device-width'><div style='{}'><p style='{}'>" + "wide " * 60 + "</p></div>"


def written(folder, text):
    path = folder / "page.html"
    path.write_text(f"<!DOCTYPE html><html lang=en><title>a</title>{text}", encoding="utf-8")
    return path


@pytest.mark.parametrize("wide", ["width:900px", "white-space:nowrap"])
@pytest.mark.parametrize(("style", "out"), [("", True), ("overflow-x:auto", False)], ids=["page", "box"])
def test_what_sticks_out_is_named_unless_it_scrolls_in_itself(opened, tmp_path, style, out, wide):
    found = sticks_out(opened(written(tmp_path, WIDE.format(style, wide)), PHONE))
    assert any(each.startswith("<p style=") for each in found) == out
    assert bool(found) == out


@pytest.mark.parametrize(
    "text",
    ["<script>console.error('no')</script>", "<script>throw Error('no')</script>", "<img src='other.png' alt=''>"],
    ids=["console", "exception", "another file"],
)
def test_what_a_page_complains_of_fails_its_test(chromium, tmp_path, text):
    with pytest.raises(AssertionError), watched(chromium) as open_:
        open_(written(tmp_path, text)).wait_for_timeout(100)
