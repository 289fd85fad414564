"""The site's source: what its pages name is there. Building it also runs every cell; this only reads."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gvgap_jax
import theory
from tests.house.test_readme import ROOT, missing

DOCS = ROOT / "docs"
MADE = {"_build", "jupyter_execute", "modules"}
PAGES = [page for page in sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]) if MADE.isdisjoint(page.parts)]
NOTEBOOKS = [page for page in PAGES if page.suffix == ".ipynb"]
BESIDE = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.md"))}  # README and its like
CELL = re.compile(r"```(?:\{code-cell\}|python).*?\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
ROLE = re.compile(r"\{(?:func|class|meth|mod|data|attr)\}`~?([\w.]+)`")
NOT_PYTHON = re.compile(r"^(%|:\w+:).*$", re.MULTILINE)


def text_of(page):
    """A page as Markdown; the code of a notebook as cells."""
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    fences = {"markdown": "{}", "code": "```{{code-cell}} python3\n{}\n```"}
    return "\n\n".join(fences[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)


TEXTS = {page.relative_to(DOCS).with_suffix("").as_posix(): text_of(page) for page in PAGES}


def toctrees(page, text):
    """Pages that the toctrees of a page name, relative to the folder of the site."""
    entries = [line for block in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL) for line in block.split("\n")]
    return [(Path(page).parent / entry).as_posix() for entry in entries if entry and not entry.startswith(":")]


def is_there(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False


def modules(package):
    """Names of a package's modules that are no packages and not private."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return {module.name for module in found if not module.ispkg and not module.name.split(".")[-1].startswith("_")}


def test_every_page_is_in_a_toctree_and_every_toctree_names_pages():
    named = [entry for page, text in TEXTS.items() for entry in toctrees(page, text)]
    assert sorted(named) == sorted(set(TEXTS) - {"index"})


def anchors(text):
    """What can follow a # in a link to a page: its headings, as GitHub and the site write them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path, text):
    """Links of a page to files that are not there, and to headings that its target has not."""
    dead = []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        target = path.parent / name
        there = target.exists()
        if there and anchor:
            there = anchor in anchors(target.read_text(encoding="utf-8") if name else text)
        dead += [] if there else [link]
    return dead


@pytest.mark.parametrize("page", TEXTS)
def test_what_a_page_refers_to_is_there(page):
    assert not [name for name in ROLE.findall(TEXTS[page]) if not is_there(name)]
    assert not dead_links(DOCS / f"{page}.md", TEXTS[page])


@pytest.mark.parametrize("page", BESIDE)
def test_what_the_pages_beside_the_code_link_to_is_there(page):
    assert not dead_links(ROOT / page, BESIDE[page])


@pytest.mark.parametrize("page", [*TEXTS, *BESIDE])
def test_pages_are_not_long(page):
    assert (TEXTS | BESIDE)[page].count("\n") <= 350


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "<!-- table:" in text])
def test_tables_made_from_records_name_no_folder_of_the_machine_that_made_them(page):
    assert not re.findall(r"--out /\S*", TEXTS[page])


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if CELL.search(text)])
def test_what_the_cells_of_a_page_use_is_there(page):
    source = NOT_PYTHON.sub("", "\n".join(CELL.findall(TEXTS[page])))
    assert not missing(source)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.name)
def test_notebooks_store_no_outputs_and_are_formed_as_others_read_them(page):
    notebook = json.loads(page.read_text(encoding="utf-8"))
    pytest.importorskip("nbformat").validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


def test_the_site_loads_no_script_from_a_network(tmp_path):
    for package in ("sphinx", "myst_nb", "furo", "sphinx-mathjax-offline"):
        pytest.importorskip(package)
    (tmp_path / "index.md").write_text("# Title\n\n$x^2$\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-c", str(DOCS), str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True)
    scripts = re.findall(r'<script[^>]* src="([^"?]+)', (tmp_path / "out" / "index.html").read_text())
    assert any("mathjax" in script for script in scripts)
    assert all((tmp_path / "out" / script).exists() for script in scripts)


def test_the_reference_names_every_module_once():
    listed = re.findall(r"^   ((?:gvgap_jax|theory)\.[\w.]+)$", "\n".join(TEXTS.values()), re.MULTILINE)
    assert sorted(listed) == sorted(modules(gvgap_jax) | modules(theory))


def test_what_is_not_there_would_be_seen():
    assert ROLE.findall("{func}`~gvgap_jax.losses.dpo` and {class}`gvgap_jax.types.Policy`") == [
        "gvgap_jax.losses.dpo",
        "gvgap_jax.types.Policy",
    ]
    assert is_there("gvgap_jax.tree.TokenTree.leaf_log_probs")
    assert not is_there("gvgap_jax.tree.TokenTree.leaves_of")
    assert not is_there("gvgap_jax.forest")
    assert toctrees("guides/x", "```{toctree}\n:hidden:\n\na\nb/c\n```") == ["guides/a", "guides/b/c"]
    assert sum(bool(CELL.search(text)) for text in TEXTS.values()) > 5
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= set(BESIDE)
    text = "# A *title*, here\n[a](x.md) [b](#a-title-here) [c](#a) [d](conf.py) [e](https://x)"
    assert dead_links(DOCS / "page.md", text) == ["x.md", "#a"]
    assert anchors(text) == {"a-title-here"}
    assert ast.parse(NOT_PYTHON.sub("", ":tags: [x]\n%config y\nz = 1")).body
