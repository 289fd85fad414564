"""The theorem checks: they hold on a few instances, and they notice what is broken."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import soft_rl
from tests.helpers import in_less_than_single_precision, products
from theory.__main__ import CHECKS, main
from theory.rows import apart, claim, negative_control

INSTANCES = 6  # both kinds of coverage of every statement, twice


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_every_claim_holds_and_every_negative_control_breaks(name):
    rows = list(CHECKS[name](INSTANCES))
    assert [row for row in rows if not row.holds] == []
    assert {row.control for row in rows} == {False, True}
    assert all(math.isfinite(row.residual) and row.instances > 0 for row in rows)


def test_the_command_writes_the_rows_it_prints(tmp_path, capsys):
    report = tmp_path / "rows.json"
    assert main(["--only", "local_rewards", "rivals", "--json", str(report)]) == 0
    written = json.loads(report.read_text())
    assert {row["check"] for row in written["rows"]} == {"local_rewards", "rivals"}
    assert all(row["holds"] for row in written["rows"])
    assert {"python", "jax", "gvgap_jax"} <= set(written["versions"])
    printed = capsys.readouterr().out
    assert printed.count("breaks") == sum(row["control"] for row in written["rows"])
    assert f"{len(written['rows'])} rows, 0 not as expected" in printed


def test_an_unknown_statement_is_named_with_its_nearest(capsys):
    assert main(["--only", "equivalense"]) == 2
    assert "'equivalense'" in (message := capsys.readouterr().err)
    assert "Did you mean 'equivalence'?" in message


@pytest.mark.parametrize("formula", ["soft_value", "soft_optimal_policy"])
def test_a_formula_that_is_off_by_a_factor_fails_the_run(monkeypatch, formula):
    right = getattr(soft_rl, formula)
    monkeypatch.setattr(soft_rl, formula, lambda *arguments: 1.001 * right(*arguments))
    assert main(["--only", "local_rewards"]) == 1


def test_a_negative_control_that_does_not_break_fails_the_run(monkeypatch):
    monkeypatch.setattr(soft_rl, "mdp_posterior_policy", soft_rl.mdp_soft_optimal_policy)
    assert main(["--only", "projections"]) == 1


def test_one_bad_instance_decides_a_row():
    assert claim("", "", [0.0, 1e-10]).holds
    assert not claim("", "", [0.0, 1e-8]).holds
    assert negative_control("", "", [1.0, 0.2], 0.1).holds
    assert not negative_control("", "", [1.0, 0.05], 0.1).holds


def test_a_residual_that_is_not_a_number_never_passes():
    residuals = apart([[0.0], [np.nan]], [[0.0], [0.0]])
    assert not claim("", "", residuals).holds
    assert not negative_control("", "", residuals + 1, 0.1).holds


def test_statements_are_checked_at_the_highest_precision(monkeypatch):
    """Also in the threads that check them: an accelerator would round the products of exact sums."""
    lines = []

    def check():
        lines.extend(products(jax.jit(lambda a: a @ a).lower(jnp.ones((2, 2)))))
        return [claim("", "", [0.0])]

    monkeypatch.setitem(CHECKS, "local_rewards", check)
    assert main(["--only", "local_rewards"]) == 0
    assert lines
    assert not in_less_than_single_precision(lines)
