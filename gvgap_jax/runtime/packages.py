"""Packages that only some runs need: imported when they are used, or the command that installs them."""

import importlib
import importlib.util
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "gvgap_jax"


def optional(name: str) -> Any:
    """The module of that name, of a package that an extra installs, or that needs one.

    Raises:
      ValueError: a package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = (error.name or name).partition(".")[0]
        raise ValueError(f"{package} is not installed; install it with: {command(package)}") from error


def is_installed(*names: str) -> bool:
    """Whether all these packages are there; none is imported."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def command(package: str) -> str:
    """The command that installs a package: with the smallest extra of this project that has it, if one has."""
    with_it = [names for names in extras().items() if canonicalize_name(package) in names[1]]
    smallest = min(with_it, key=lambda extra: len(extra[1]), default=None)
    return f'pip install "{PROJECT}[{smallest[0]}]"' if smallest else f"pip install {package}"


def extras() -> dict[str, set[str]]:
    """The extras of the installed project, and the packages that each of them adds."""
    needed = [Requirement(line) for line in metadata.requires(PROJECT) or ()]
    return {
        extra: {
            canonicalize_name(each.name)
            for each in needed
            if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""})
        }
        for extra in metadata.metadata(PROJECT).get_all("Provides-Extra") or ()
    }
