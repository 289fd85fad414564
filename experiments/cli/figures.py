"""``python -m experiments figures``: figures from records; nothing is computed."""

from collections.abc import Sequence
from pathlib import Path

from experiments.cli.arguments import known_experiment
from experiments.kit import points
from experiments.kit.backends import BackendName, named, on_backend
from experiments.kit.plots import Format, Width, at_width, save
from experiments.kit.presets import default_folder
from experiments.kit.terminal import console
from experiments.questions import questions
from experiments.report.evidence import chosen
from gvgap_jax.runtime.files import explained
from gvgap_jax.sweep import folder_at
from gvgap_jax.sweep.look import MANIFEST


def figures(
    name: str,
    backend: BackendName = "tree",
    records: str | None = None,
    out: Path = Path("results/figures"),
    format: tuple[Format, ...] = ("png", "pdf"),
    width: Width = "page",
) -> None:
    """Draw an experiment's figures from its records.

    Args:
      name: an experiment, or ``all`` for every experiment that has records.
      backend: whose records they are.
      records: folder of the records; if left out, the most thorough ones that are complete, in results or shipped.
      out: folder of the figures.
      format: of the files, one or several.
      width: of a paper in two columns that the figures fill: one column (3.25 inches) or the page (6.75 inches).
    """
    names = list(on_backend(questions(), backend)) if name == "all" else [known_experiment(name, backend)]
    drawn = []
    for each in names:
        folder = records or _folder_of(each, backend)
        if folder is None and name == "all":
            option = "" if backend == "tree" else f" --backend {backend}"
            console.print(f"{each}: no records yet; make them with: python -m experiments run {each}{option}")
            continue
        drawn += draw(each, folder or default_folder(each, "quick", backend=backend), out, backend, format, width)
    for path in drawn:
        console.print(str(path), soft_wrap=True)


def draw(
    name: str,
    folder: str | Path,
    out: Path,
    backend: BackendName = "tree",
    formats: Sequence[Format] = ("png", "pdf"),
    width: Width = "page",
) -> list[Path]:
    """Draw one experiment's figures from a backend's records in ``folder``; returns the files written.

    Raises:
      FileNotFoundError: the folder holds no such records.
    """
    module = on_backend(questions(), backend)[name]
    drawn = points.figures(module, points.records_of(folder))
    with explained(out), at_width(width):
        return [path for title, figure in drawn for path in save(figure, out, named(title, backend), formats)]


def _folder_of(name: str, backend: BackendName) -> str | None:
    folder = chosen(name, on_backend(questions(), backend)[name], backend=backend).folder
    return folder if (folder_at(folder) / MANIFEST).exists() else None
