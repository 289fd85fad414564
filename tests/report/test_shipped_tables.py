"""The pages that quote records quote those that come with the project: their tables are what would be written anew."""

from pathlib import Path

import jax
import pytest

from experiments.kit.backends import everywhere
from experiments.kit.shipped import SHIPPED
from experiments.questions import questions, token_tasks
from experiments.report import evidence, tables

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/results.md",
    "docs/findings.md",
    "docs/findings_rivals.md",
    "docs/findings_networks.md",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tables of the records that come with the project, where nothing was run; no figure is drawn for them.

    In single precision, as commands have it: what findings draw anew from keys is another draw in double precision.
    """
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(False):
        patch.chdir(tmp_path_factory.mktemp("empty"))
        patch.setattr(evidence, "_draw", lambda *_: ([], []))
        token_tasks.exact.cache_clear()  # of tests before, in double precision
        found = [
            evidence.gather(name, module, preset=SHIPPED, backend=backend)
            for name, backend, module in everywhere(questions())
        ]
        token_tasks.exact.cache_clear()
    return found, tables.tables(found)


def test_records_of_every_experiment_come_with_the_project(made):
    assert {each.key: each.problems for each in made[0] if each.problems} == {}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_quotes_them(made, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    asked = tables.asked_for(page, text, made[1])
    assert text == tables.rewritten(text, asked), f"write it anew: python -m experiments report --tables {page}"


def test_the_pages_of_findings_have_every_experiment(made):
    pages = ((ROOT / page).read_text(encoding="utf-8") for page in PAGES if "findings" in page)
    asked = [name for text in pages for name in tables.asked_for("findings", text, made[1])]
    assert sorted(asked) == sorted(f"findings {name}" for name in questions())
