"""Records that people have keep their names; see ``golden_plans``."""

import json

import pytest

from tests.house import golden_plans
from tests.house.golden_plans import GOLDEN, identity, keys, stages, text

GIVEN = json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_plan_is_there():
    assert set(GIVEN["plans"]) == {text(key) for key in keys()}


@pytest.mark.parametrize("key", keys(), ids=text)
def test_a_plan_keeps_its_names(key):
    assert identity(*key) == GIVEN["plans"][text(key)]


def test_the_recipe_keeps_what_its_folders_are_compared_by():
    assert stages() == GIVEN["stages"]


def test_a_renamed_field_would_be_seen(monkeypatch):
    name, backend, preset = "equivalence", "tree", "quick"
    module = golden_plans.questions()[name]
    cells = module.cells

    def renamed(config):
        return [
            cell._replace(labels={f"{label}_": value for label, value in cell.labels.items()}) for cell in cells(config)
        ]

    monkeypatch.setattr(module, "cells", renamed)
    assert identity(name, backend, preset) != GIVEN["plans"][text((name, backend, preset))]
