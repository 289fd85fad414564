"""What is understood of checkpoints and of data, in one screen, before any hour is spent on them."""

from pathlib import Path
from typing import Any

from experiments.cli import facts_of_checkpoints, facts_of_data
from experiments.kit.terminal import console, names, printable
from experiments.tldr.settings import Data
from gvgap_jax.lm.data import forms, sources, summary
from gvgap_jax.lm.data.read import Corpus
from gvgap_jax.lm.hf.load import CONFIG
from gvgap_jax.runtime import hub

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")  # of single files


def inspect(
    things: tuple[str, ...],
    form: str | None = None,
    part: str = "train",
    revision: str | None = None,
    prompt_tokens: int = Data.prompt_tokens,
    response_tokens: int | None = None,
) -> None:
    """Show what is understood of checkpoints and of data, before any run.

    Nothing is trained, and nothing but headers of weights is read.

    Args:
      things: checkpoints (folders, names on the hub) and data (files, folders, names on the hub), in any order.
      form: of the data; seen from the rows if left out.
      part: of data sets that have several.
      revision: branch, tag or commit of checkpoints on the hub.
      prompt_tokens: room for prompts.
      response_tokens: room for responses; as in the recipe if left out, 53 for demonstrations and 169 for comparisons.

    Raises:
      ValueError: something cannot be used, and why.
    """
    if not things:
        raise ValueError("name a checkpoint, data, or both: folders, files, or names on the hub.")
    if min(prompt_tokens, response_tokens or 1) < 1:
        raise ValueError("--prompt_tokens and --response_tokens must be at least 1.")
    if form is not None:
        _check_form(form)
    models, data = [], []
    for name in dict.fromkeys(things):
        if _is_checkpoint(name, revision):
            models.append(facts_of_checkpoints.opened(name, revision if not Path(name).is_dir() else None))
            _show(f"checkpoint {name}", facts_of_checkpoints.facts(models[-1]))
        else:
            data.append((name, _read(name, form, part)))
            _show(f"data {name}", facts_of_data.facts(data[-1][1]))
    for name, corpus in data:
        for model in models:
            told = facts_of_data.facts_for(corpus, model, prompt_tokens, response_tokens)
            _show(f"{name}, as {model.name} reads it", told)


def _check_form(form: str) -> None:
    try:
        forms.check_names([form])
    except ValueError as error:
        raise ValueError(f"--form: {error}") from error


def _is_checkpoint(name: str, revision: str | None) -> bool:
    """By what a folder holds, or whether the hub has a checkpoint of that name."""
    if Path(name).is_file() and (Path(name).suffix in WEIGHTS or Path(name).name in facts_of_checkpoints.MARKS):
        raise ValueError(f"{name} is one file of a checkpoint: name the folder that it lies in.")
    if Path(name).exists() or name.lower().endswith(sources.FILES) or not sources.HUB.fullmatch(name):
        return facts_of_checkpoints.is_folder_of_one(Path(name))
    try:
        return facts_of_checkpoints.is_folder_of_one(hub.fetch(name, facts_of_checkpoints.SMALL, revision))
    except ValueError:
        return False


def _read(name: str, form: str | None, part: str) -> Corpus[Any]:
    try:
        return summary.read_either(name, form, part)
    except ValueError as error:
        if Path(name).is_dir() and not any(each.name.lower().endswith(sources.FILES) for each in Path(name).iterdir()):
            raise ValueError(f"{name} holds no checkpoint (there is no {CONFIG}), and no data: {error}") from error
        if Path(name).exists() or not sources.HUB.fullmatch(name) or name.lower().endswith(sources.FILES):
            raise
        raise ValueError(
            f"there is no file or folder {name} here, and neither a checkpoint nor data of that name could be fetched "
            f"from the hub: {error}"
        ) from error


def _show(title: str, told: dict[str, str]) -> None:
    console.print(names(title, {name: printable(text) for name, text in told.items()}), highlight=False)
    console.print()
