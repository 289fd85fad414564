"""The evidence of all experiments is the same however many processes gather it."""

import pytest

from experiments.report import everything
from tests.report.toy_questions import install, toy


def test_processes_gather_what_one_gathers(tmp_path, monkeypatch):
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(everything, "number_of_cores", lambda cores=cores: cores)
        found.append(everything.gather_all(str(tmp_path), "tiny"))
    assert found[0] == found[1]
    assert len(found[0]) > 30
    assert all(str(tmp_path) in each.problems[0] for each in found[0])


def test_few_experiments_start_no_process(tmp_path, monkeypatch):
    install(monkeypatch, {"toy": toy(), "twin": toy()})
    monkeypatch.setattr(everything, "number_of_cores", lambda: 8)
    monkeypatch.setattr(everything, "ProcessPoolExecutor", lambda *_: pytest.fail("a process was started"))
    assert [each.key for each in everything.gather_all(str(tmp_path))] == ["toy", "twin"]
