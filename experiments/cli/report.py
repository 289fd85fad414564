"""``python -m experiments report``: one page on every experiment, and a README's tables, from records alone."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from experiments.kit.backends import on_backend
from experiments.kit.presets import BACKEND_NAMES, RESULTS, Preset
from experiments.questions import questions
from experiments.report.evidence import gather
from experiments.report.page import page
from experiments.report.tables import rewritten, tables
from experiments.tldr import report as tldr
from gvgap_jax.sweep import folder_at

console = Console()


def report(
    records: str = RESULTS,
    preset: Preset | None = None,
    out: Path = Path(RESULTS) / "report.html",
    readme: Path | None = None,
) -> None:
    """Write one HTML page of all findings and figures, from records.

    It has every experiment's question, findings, controls and figures; nothing is computed.

    Args:
      records: folder of the experiments' folders NAME-PRESET and NAME-transformer-PRESET, local or in an object store.
      preset: whose records to show; if left out, of each experiment the most thorough ones that are complete.
      out: the page.
      readme: a Markdown file whose tables, between their markers, are written anew too.
    """
    evidence = [
        gather(name, module, records, preset, backend)
        for backend in BACKEND_NAMES
        for name, module in on_backend(questions(), backend).items()
    ]
    recipes = [tldr.evidence(folder) for folder in tldr.folders(folder_at(records))]
    if readme is not None:
        readme.write_text(rewritten(readme.read_text(encoding="utf-8"), tables(evidence)), encoding="utf-8")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page([*evidence, *recipes]), encoding="utf-8")
    for each in evidence:
        for problem in each.problems:
            console.print(f"[yellow]{each.key}: {escape(problem)}[/yellow]", highlight=False, soft_wrap=True)
        if not each.readable:
            console.print(f"    {each.command}", highlight=False, soft_wrap=True)
    shown, more = sum(not each.problems for each in evidence), f", {len(recipes)} of the recipe" if recipes else ""
    console.print(f"{out}: {shown} of {len(evidence)} experiments complete{more}", highlight=False, soft_wrap=True)
