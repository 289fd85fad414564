"""``python -m experiments report``: one page on every experiment, and tables of a Markdown file, from records alone."""

from pathlib import Path

from rich.markup import escape

from experiments.kit.points import records_of
from experiments.kit.presets import RESULTS, Preset
from experiments.kit.terminal import console
from experiments.report import tables as markdown
from experiments.report.everything import gather_all
from experiments.report.explorer import explorer
from experiments.report.explorer_points import SOURCES
from experiments.report.own import own_runs
from experiments.report.page import page
from experiments.tldr import records as runs
from experiments.tldr import report as tldr
from gvgap_jax.runtime.files import explained
from gvgap_jax.sweep import folder_at


def report(
    records: str = RESULTS,
    preset: Preset | None = None,
    out: Path = Path(RESULTS) / "report.html",
    tables: tuple[Path, ...] = (),
) -> None:
    """Write one HTML page of all findings and figures, from records.

    It has every experiment's question, findings, controls and figures; nothing is computed.

    Args:
      records: folder of the experiments' folders NAME-PRESET and NAME-transformer-PRESET, local or in an object store.
      preset: whose records to show; if left out, of each experiment the most thorough ones that are complete.
      out: the page.
      tables: Markdown files whose tables, between their markers, are written anew too.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in tables}
    evidence = gather_all(records, preset)
    root = folder_at(records)
    own = [*own_runs(root), *(tldr.evidence(folder) for folder in runs.folders(root))]
    known = {each.key: records_of(each.folder) for each in evidence if each.readable and each.key in SOURCES}
    made = markdown.tables(evidence) if texts else {}
    asked = {path: markdown.asked_for(str(path), text, made) for path, text in texts.items()}
    for path, text in texts.items():
        with explained(path):
            path.write_text(markdown.rewritten(text, asked[path]), encoding="utf-8")
    with explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page(evidence, own, explorer(known)), encoding="utf-8")
    for each in (*evidence, *own):
        for problem in each.problems:
            console.print(f"[yellow]{each.key}: {escape(problem)}[/yellow]", highlight=False, soft_wrap=True)
        if not each.readable:
            console.print(f"    {each.command}", highlight=False, soft_wrap=True)
    shown, more = sum(not each.problems for each in evidence), f", {len(own)} runs of your own" if own else ""
    console.print(f"{out}: {shown} of {len(evidence)} experiments complete{more}", highlight=False, soft_wrap=True)
