"""One file a question; a second room of it bears its name.

A question's module has ``MEANING`` (a number that grows when records change their meaning), ``QUESTION`` (the claim
under scrutiny, what its authors reported, and its place among the questions), ``Config`` (the settings of one point),
``PRESETS`` (grids over it, ``tiny`` for the tests among them), ``cells(config)``, the pure function
``run(program, cell)``, ``findings(records)`` with at least one control, ``CAPTIONS`` and ``draw(records)``. Both get
the records of one point of all fields that ``QUESTION.axes`` does not name (see ``kit.points``). With
``TRANSFORMER_PRESETS`` it can be rerun on transformers (see ``kit.backends``); otherwise ``NOT_ON_TRANSFORMERS`` says
in a sentence why not.
"""

import functools
import importlib
import pkgutil
from types import ModuleType


@functools.cache
def questions() -> dict[str, ModuleType]:
    """Every module of this folder that has a ``QUESTION``, by name, in the order that they state themselves."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    there = [(name, module) for name, module in modules.items() if hasattr(module, "QUESTION")]
    return dict(sorted(there, key=lambda each: (each[1].QUESTION.place, each[0])))
