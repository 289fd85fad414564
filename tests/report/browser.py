"""The system's Chromium, for tests of what a reader sees; they are skipped where there is none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 300_000  # milliseconds: a machine may be busy
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A browser of one test module: while it runs, no test of the process may have an event loop of its own."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium) -> Iterator[Callable]:
    """As ``watched``."""
    with watched(chromium) as open_:
        yield open_


@contextmanager
def watched(chromium) -> Iterator[Callable]:
    """Opens files, each in a context of its own, as playwright's pages: ``open_(path, viewport, color_scheme="dark")``.

    AssertionError at the end if a page wrote a warning or an error to the console, raised, or asked for another file.
    """
    contexts, said = [], []

    def open_(path: Path, viewport: dict = DESKTOP, **context):
        own = "data:", "blob:", path.as_uri()
        contexts.append(chromium.new_context(viewport=viewport, **context))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda message: message.type in ("warning", "error") and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(own) or said.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def sticks_out(page) -> list[str]:
    """What makes a page scroll sideways: each element whose content ends right of the window and does not scroll."""
    return page.evaluate(
        """() => {
          const most = document.documentElement.clientWidth;
          const right = (each) => { const of = document.createRange(); of.selectNodeContents(each);
            return Math.max(of.getBoundingClientRect().right, each.getBoundingClientRect().right); };
          const boxed = (each) => { for (let up = each; up; up = up.parentElement)
            if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(up).overflowX)) return true;
            return false; };
          if (document.documentElement.scrollWidth <= most) return [];
          return [...document.body.querySelectorAll("*")].filter((each) => right(each) > most + 1 && !boxed(each))
            .map((each) => each.outerHTML.slice(0, 120));
        }"""
    )
