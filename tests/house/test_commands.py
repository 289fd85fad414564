"""Every ``python -m experiments`` in README, documentation and job files is a command that there is."""

import functools
import re
import shlex

import pytest

from experiments.cli import main as cli
from experiments.cli import rehearse, run, runner
from tests.house.test_cloud import FILES
from tests.house.test_docs import BESIDE, TEXTS

VALUES = {"PORT": "8476", "PRESET": "pythia-410m", "PLATFORM": "tpu", "OUT": "gs://BUCKET/tldr"}
PAGES = [*TEXTS.values(), *BESIDE.values()]
PLACEHOLDER = re.compile(r"^(NAME|PRESET|FOLDER|label_noise)$")


def commands():
    """The arguments of all of them, variables filled in; those that stand for a name of one's own are left out."""
    blocks = [block for text in PAGES for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]
    prose = [re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in PAGES]
    spans = [span for text in prose for span in re.findall(r"`([^`\n]+)`", text)]
    distinct = {}
    for text in (*blocks, *spans, *FILES.values()):
        for command in re.findall(r"python -m experiments ([^\n…]*)", text.replace("\\\n", " ")):
            words = re.split(r"\s(?:&&|\|\||[>|;#&]|>>|\)|2>)|[`;')}]|\"$|\"}", f"{command} ")[0]
            words = re.sub(r"\$\{?(\w+)\}?", lambda name: VALUES.get(name[1], ""), words.replace('"${hosts[@]', ""))
            distinct[" ".join(shlex.split(words.replace('"', "")))] = None
    split = [command.split() for command in distinct]
    return [words for words in split if words and not any(PLACEHOLDER.match(word) for word in words)]


def test_commands_are_found_everywhere():
    assert len(commands()) > 50
    assert {command[0] for command in commands()} == {
        "list", "run", "status", "figures", "report", "predict", "compact", "inspect", "doctor", "quickstart",
        "bench", "rehearse", "compare", "ship", "verify",
    }  # fmt: skip


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_one_that_there_is(monkeypatch, arguments):
    called = []

    def only_noted(command):
        return functools.wraps(command)(lambda *a, **k: called.append((a, k)))

    for name, command in cli.COMMANDS.items():
        if command not in (run.run, rehearse.rehearse):
            monkeypatch.setitem(cli.COMMANDS, name, only_noted(command))
    in_the_end = ((run, "run_all"), (run, "run_tldr"), (runner, "run"))
    in_the_end += ((rehearse, "of_sweep_run"), (rehearse, "of_recipe_run"), (rehearse, "documented"))
    for owner, name in in_the_end:
        monkeypatch.setattr(owner, name, only_noted(getattr(owner, name)))
    monkeypatch.setattr(rehearse, "_end", lambda done: None)
    cli.main(arguments)
    assert len(called) == 1


def test_a_command_that_there_is_not_would_be_seen(capsys):
    for command in (["doctor", "--platforms", "tpu"], ["run", "phase_diagrams"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(command)
        assert stopped.value.code == 2
