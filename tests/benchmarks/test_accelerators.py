"""Rows of a rented machine: each is stored by itself, what is lost is measured again, and a budget is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from upath import UPath

from experiments.benchmarks import fresh, problems
from experiments.benchmarks.accelerators import roofline, run, speeds, stored, table, transformers, trees
from experiments.benchmarks.accelerators.rows import FITS, SIZES, TORCH_FIT, Row, rows
from experiments.benchmarks.accelerators.stored import Key, Measured, Stored
from experiments.cli import main as command
from experiments.cli.bench import MINUTES, TABLE
from gvgap_jax.lm.budget import memory
from gvgap_jax.lm.budget.work import Work
from gvgap_jax.lm.model.pythia import pythia
from gvgap_jax.runtime import files
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.compiled import facts
from gvgap_jax.runtime.devices import over_devices
from gvgap_jax.runtime.packages import is_installed
from tests.benchmarks import made_up_rows
from tests.house.test_readme import ROOT

MADE_UP = made_up_rows.rows()
MACHINE = run.Machine("gpu", "Chip X", 2, {"jax": "1", "platform": "cuda 1"}, {"revision": "abc"})
SECOND = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def machine(monkeypatch):
    """What rows are measured on, without starting jax for it; its fields may be changed."""
    found = [MACHINE]
    monkeypatch.setattr(run, "_machine", lambda *_: found[0])
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing disturbed, and its table."""
    folder = tmp_path_factory.mktemp("whole") / "rows"
    measure(folder)
    return folder, markdown(folder)


def measured_by_a_process(folder, note, *last):
    arguments = [sys.executable, "-m", "tests.benchmarks.made_up_rows", str(folder), *last]
    variables = os.environ | {made_up_rows.NOTE: str(note)}
    return subprocess.run(arguments, cwd=ROOT, env=variables, capture_output=True, timeout=300).returncode


def markdown(folder):
    return table.in_markdown(MADE_UP, stored.load(folder)[0], "COMMAND")


def names(folder):
    return {path.name for path in folder.iterdir() if path.suffix == ".json"}


def measure(folder, *only, minutes=5.0):
    run.measure(None, only or MADE_UP, folder, minutes)


def saved(folder, row="copy", device="Chip X", created=SECOND, **changes):
    measured = made_up_rows.steady("GB", 90, (3.0, 2.0, 4.0), {"memory": 1.5})._replace(**changes)
    key = Key(row, {"numbers": 3}, device, 2, {"jax": "1", "platform": "cuda 1"})
    folder.mkdir(parents=True, exist_ok=True)
    stored.save(folder, Stored(key, {"revision": "abc", "created": created}, measured))
    return key


def test_a_run_that_is_killed_after_a_row_goes_on_and_ends_at_the_same_table(tmp_path, whole):
    folder, note = tmp_path / "rows", tmp_path / "note"
    kept = {}
    for done in (1, 3):
        assert measured_by_a_process(folder, note, MADE_UP[done - 1].name) == -signal.SIGKILL
        assert len(names(folder)) == done
        kept |= {path.name: path.read_bytes() for path in folder.glob("*.json*") if path.name not in kept}
    assert measured_by_a_process(folder, note) == 0
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert names(folder) == names(whole[0])
    assert len(note.read_text().splitlines()) == len(MADE_UP), "a row was measured twice"
    assert markdown(folder) == whole[1]


def test_a_row_that_is_at_work_dies_with_the_process_that_waits_for_it(tmp_path):
    note = tmp_path / "pid"
    code = (
        "from pathlib import Path; from experiments.benchmarks import fresh; from tests.benchmarks import made_up_rows;"
        f"fresh.in_time(300, Path({str(tmp_path / 'log')!r}), made_up_rows.hangs, {str(note)!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as waiting:
        until(lambda: note.exists() and note.read_text())
        child = int(note.read_text())
        os.kill(child, 0)
        waiting.kill()
    until(lambda: not is_running(child))


def until(happened):
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within a minute")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("suffix", [".json", ".json.sha256"])
def test_a_damaged_row_is_set_aside_and_measured_again(tmp_path, machine, capsys, suffix):
    measure(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    path = next(tmp_path.glob(f"copy-*{suffix}"))
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    measure(tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("damaged: copy-") == 1
    assert "set_aside" in printed
    assert "1/5 copy: 30" in printed
    assert printed.count("stored already") == 4
    assert names(tmp_path) == set(before)
    assert {path.name for path in (tmp_path / "set_aside").iterdir()} >= {next(iter(sorted(before)))}


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{}", '{"key": 3}',
        lambda row: row | {"key": row["key"] | {"devices": 9}},
        lambda row: row | {"measured": row["measured"] | {"seconds": []}},
        lambda row: row | {"measured": row["measured"] | {"seconds": [0.0]}},
        lambda row: row | {"measured": {"unit": "fits"}},
        lambda row: row | {"made_by": {}},
    ],
    ids=["list", "empty", "number", "other devices", "no seconds", "zero seconds", "few numbers", "no maker"],
)  # fmt: skip
def test_a_file_that_is_whole_but_no_such_row_is_set_aside(tmp_path, content):
    key = saved(tmp_path)
    path = tmp_path / f"{key.name}.json"
    made = content if isinstance(content, str) else json.dumps(content(json.loads(path.read_text())))
    files.write(path, made.encode())
    found, damaged = stored.load(tmp_path)
    assert (found, len(damaged)) == ([], 1)
    assert not path.exists()


def test_a_row_is_another_one_if_anything_of_it_differs(tmp_path, machine, capsys):
    measure(tmp_path)
    assert len(names(tmp_path)) == len(MADE_UP)
    for changes in ({"device": "Chip Y"}, {"devices": 4}, {"versions": {"jax": "2", "platform": "cuda 1"}}):
        machine[0] = MACHINE._replace(**changes)
        capsys.readouterr()
        measure(tmp_path)
        assert "stored already" not in capsys.readouterr().out
    copy = MADE_UP[0]
    for row in (copy._replace(settings=copy.settings | {"amount": 91}), copy._replace(packages=("pytest",))):
        measure(tmp_path, row)
    measure(tmp_path, copy._replace(seconds=2.0))
    machine[0] = MACHINE._replace(made_by={"revision": "def"})
    measure(tmp_path)
    assert len(names(tmp_path)) == 4 * len(MADE_UP) + 2


FAILURES = {
    "sentence": (made_up_rows.raises, ("ValueError", "it needs 9 GiB"), "it needs 9 GiB."),
    "error": (made_up_rows.raises, ("RuntimeError", "first line\nsecond"), "RuntimeError: first line."),
    "long": (made_up_rows.raises, ("ValueError", "x" * 900), "x" * 200 + "."),
    "memory": (made_up_rows.out_of_memory, (), "JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory while"),
    "late": (made_up_rows.hangs, (os.devnull,), "it was not done after 1 s."),
    "death": (made_up_rows.dies, (), "its process died with status -9."),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_becomes_of_a_call_is_a_sentence(tmp_path, failure):
    function, arguments, sentence = FAILURES[failure]
    with pytest.raises(fresh.Failed) as failed:
        fresh.in_time(1.0 if failure == "late" else 60.0, tmp_path / "log", function, *arguments)
    assert str(failed.value).startswith(sentence)
    assert "\n" not in str(failed.value)


def test_a_row_that_fails_is_noted_and_tried_again_and_the_others_are_measured(tmp_path, machine, capsys):
    wrong = Row("copy", 1.0, made_up_rows.raises, {"kind": "ValueError", "message": "no [room]"})
    measure(tmp_path, wrong, *MADE_UP[1:])
    assert "1/5 copy: not measured: no [room]." in capsys.readouterr().out
    assert len(names(tmp_path)) == len(MADE_UP) - 1
    assert len(list(tmp_path.glob("copy-*.failed"))) == 1
    assert 'raise {"ValueError"' in (tmp_path / run.LOG).read_text(), "the traceback"
    assert "| copy | not measured |  |  |  |  |  | no [room]. |" in markdown(tmp_path)
    measure(tmp_path, wrong)
    assert "not measured: no [room]." in capsys.readouterr().out, "tried again"
    key = run.Machine.key(MACHINE, wrong)
    stored.save(tmp_path, Stored(key, {"created": SECOND, "revision": "abc"}, made_up_rows.steady("GB", 1, (1.0,), {})))
    assert not list(tmp_path.glob("copy-*.failed*"))


def test_what_does_not_fit_into_the_time_left_is_left_out_and_said(tmp_path, machine, capsys):
    first, second, *_ = MADE_UP
    measure(tmp_path, first._replace(seconds=61.0), second, minutes=1.0)
    printed = capsys.readouterr().out
    assert "1/2 copy: left out: it takes about 61 s, and 60 s are left" in printed
    assert names(tmp_path) == {f"{MACHINE.key(second).name}.json"}


def test_a_row_is_ended_when_the_time_is_over(tmp_path, machine, capsys):
    row = Row("copy", 1.0, made_up_rows.hangs, {"note": os.devnull})
    started = time.monotonic()
    measure(tmp_path, row, minutes=0.03)
    assert time.monotonic() - started < 30
    assert "1/1 copy: not measured: it was not done after 2 s." in capsys.readouterr().out


def test_a_signal_lets_the_row_at_hand_finish(tmp_path, machine, capsys, monkeypatch):
    outcome = run._outcome

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return outcome(*arguments)

    monkeypatch.setattr(run, "_outcome", signalled)
    with pytest.raises(SystemExit) as stopped:
        measure(tmp_path)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert len(names(tmp_path)) == 1
    assert "Go on with" in capsys.readouterr().out


def test_the_table_says_rates_their_spread_and_the_limit(whole):
    lines = whole[1].splitlines()
    assert lines[0].startswith("cpu x ")
    assert "| copy | 30 fits/s | 22.5 to 45 |  | 50.0% | memory, 50% | 1.5 | made up; published peaks |" in lines
    assert (
        "| DPO fits | 2,000 fits/s | 2,000 to 2,000 | 20.0% |  | dispatch, 50% | 1.5 | made up; published peaks |"
        in lines
    )
    assert "In the time of one fit by PyTorch 1,000 are done here: 1 x 1,000." in lines
    assert any("32 seeds at once are 32 times as fast" in line and "18.7 times" in line for line in lines)


def test_the_newest_measurement_of_every_device_is_shown(tmp_path):
    for device in ("Chip X", "Chip Y"):
        for hour, seconds in ((1, 1.0), (3, 3.0), (2, 2.0)):
            key = saved(tmp_path, device=device, created=SECOND.replace("T00", f"T0{hour}"), seconds=[seconds])
            path = tmp_path / f"{key.name}.json"
            path.rename(tmp_path / f"{key.name}-{hour}.json")
    assert stored.load(tmp_path)[0] == [], "a name is part of what is checked"


def test_versions_that_differ_are_two_rows_of_which_the_newer_is_shown(tmp_path):
    measured = made_up_rows.steady("GB", 90, (1.0,), {})
    for created, version, amount in (("2", "1", 5), ("1", "2", 7)):
        key = Key("copy", {}, "Chip X", 2, {"jax": version, "platform": "cuda"})
        stored.save(tmp_path, Stored(key, {"revision": "abc", "created": created}, measured._replace(amount=amount)))
    note = Key("copy", {}, "Chip X", 2, {"jax": "3", "platform": "cuda"})
    stored.save(tmp_path, Stored(note, {"revision": "abc", "created": "3"}, None, "late"))
    assert "| copy | 5 GB/s |" in markdown(tmp_path)


def test_rows_go_to_an_object_store(machine, capsys):
    folder = UPath("memory://accelerators/rows")
    measure(folder)
    assert len(stored.load(folder)[0]) == len(MADE_UP)
    measure(folder)
    assert capsys.readouterr().out.count("stored already") == len(MADE_UP)


def printed_by(capsys, *arguments, status=0):
    try:
        command.main(["bench", *arguments])
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr().out
    assert code == status, printed
    return printed


def test_the_command_measures_what_it_has_time_for(tmp_path, capsys):
    """The first rows of the real ones: with ``--size tiny`` they run on this machine's processors."""
    arguments = ("gpu", "--size", "tiny", "--out", str(tmp_path), "--minutes", "0.5")
    printed = printed_by(capsys, *arguments)
    assert "1/16 matrix product, bfloat16: " in printed
    assert "16/16 sweep's program, DPO, more cells: left out" in printed
    assert names(tmp_path / "gpu-tiny")
    assert "TFLOP/s" in printed_by(capsys, *arguments[:-1], "0")


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_a_machine_without_the_device_is_told_so(tmp_path, capsys, platform):
    printed = printed_by(capsys, platform, "--out", str(tmp_path), status=2)
    assert f"error: bench {platform} is for a {platform.upper()}, and jax runs on cpu here" in printed
    assert printed.count("\n") == 1


BAD = {
    "minutes": (("gpu", "--minutes", "-1"), "--minutes must not be negative"),
    "not a number": (("gpu", "--minutes", "nan"), "--minutes must not be negative"),
    "another benchmark": (("fits", "--minutes", "3"), "only gpu and tpu have --minutes"),
    "another size": (("memory", "--size", "tiny"), "only gpu and tpu have --minutes, --size"),
    "store": (("fits", "--out", "gs://bucket"), "and write to an object store"),
    "experiment": (("gpu", "--experiment", "equivalence"), "only sweeps and kills run an --experiment"),
    "no file": (("gpu", "--minutes", "0", "--tables", "none.md"), "none.md: No such file"),
    "no place": (("gpu", "--minutes", "0", "--tables", "empty.md"), "put <!-- table: accelerators -->"),
    "file": (("gpu", "--size", "tiny", "--out", "empty.md"), "a file is in its way"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_ends_in_one_sentence(tmp_path, monkeypatch, capsys, bad):
    monkeypatch.chdir(tmp_path)
    Path("empty.md").write_text("")
    printed = printed_by(capsys, *BAD[bad][0], status=2)
    assert BAD[bad][1] in printed
    assert printed.count("\n") == 1


def test_a_file_gets_the_table_of_what_is_stored(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: accelerators -->\nold\n<!-- end -->\nafter\n")
    arguments = ("--minutes", "0", "--out", str(tmp_path), "--tables", str(page))
    assert "has no rows yet" in printed_by(capsys, "gpu", *arguments)
    assert "Nothing is measured yet: `python -m experiments bench gpu` does it." in page.read_text()
    saved(tmp_path / "gpu", device="Chip X")
    saved(tmp_path / "tpu", device="Chip Y", seconds=[9.0])
    for platform in ("gpu", "tpu"):
        printed = printed_by(capsys, platform, *arguments)
        assert ("Chip X" in printed) == (platform == "gpu")
        text = page.read_text()
        assert "Chip X x 2; jax 1; cuda 1; revision abc; 2026-01-01:" in text
        assert "| copy | 10 GB/s |" in text
        assert "old" not in text
        assert text.startswith("before")


def test_the_page_on_speed_has_a_line_for_every_row():
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    between = text.partition(f"<!-- table: {TABLE} -->")[2].partition("<!-- end -->")[0]
    assert [row.name for row in rows("full") if f"\n| {row.name} |" not in between] == []


def test_the_rows_of_most_worth_fit_into_the_minutes_that_are_given():
    every = rows("full")
    last = [row.name for row in every].index("decoding, 1.4b")
    assert sum(row.seconds for row in every[: last + 1]) <= 60 * MINUTES
    for size in SIZES:
        assert len({row.name for row in rows(size)}) == len(rows(size))
        json.dumps([row.settings for row in rows(size)])


def test_a_damaged_folder_is_said(tmp_path, monkeypatch, capsys):
    key = saved(tmp_path / "gpu")
    monkeypatch.setattr(
        files, "set_aside", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied", str(path)))
    )
    (tmp_path / "gpu" / f"{key.name}.json").write_text("{}")
    printed = printed_by(capsys, "gpu", "--minutes", "0", "--out", str(tmp_path), status=2)
    assert "denied" in printed


FLOORS = {
    "sweep's program, DPO": {"matrix units", "memory", "dispatch"},
    "leaf pass": {"memory", "dispatch"},
    "seeds of DPO at once": set(),
}
OF_TINY = {row.name: row for row in rows("tiny")}


@pytest.mark.parametrize(
    "name",
    ["sweep's program, DPO", FITS, "leaf pass", "DPO steps, tiny", "decoding, tiny", "seeds of DPO at once"],
)
def test_every_kind_of_row_measures_something(name):
    row = OF_TINY[name]
    found = row.measure(**row.settings)
    assert found.a_second > 0
    assert min(found.seconds) > 0
    assert len(found.seconds) >= 3
    assert found.compile_seconds > 0
    assert all(seconds > 0 for seconds in found.floors.values())
    assert set(found.floors) == FLOORS.get(name, {"matrix units", "memory"})
    assert Measured(**json.loads(json.dumps(found._asdict()))) == found
    assert name != FITS or found.how.endswith("2 of 2 that were judged are optima")


def test_the_roofline_counts_every_turn_of_every_row():
    """By hand: n turns of a row of 8 numbers, one product a number and turn, and one test more than turns."""

    def run(row):
        start = jnp.float32(0), row["numbers"]
        return jax.lax.while_loop(lambda state: state[0] < row["turns"], turn, start)[1]

    def turn(state):
        return state[0] + 1.0, state[1] * 2.0

    sample = {"turns": np.array([3.0, 5.0], np.float32), "numbers": np.ones((2, 8), np.float32)}
    lowered = over_devices(run).lower(sample)
    found = roofline.of_rows(run, sample, 2, lowered, lowered.compile())
    by_hand = [turns * (1 + 8) + (turns + 1) for turns in (3, 5)]
    assert found.operations == sum(by_hand) / 2
    speed = speeds.of_products("float32")
    assert found.floors["matrix units"] == pytest.approx(sum(by_hand) / (speed.value * jax.local_device_count()))
    once = facts(lowered, lowered.compile(), 0.0)
    turns = sum(by_hand) / (once.flops * jax.local_device_count())
    assert turns > 3
    assert found.floors["memory"] == pytest.approx(once.moved * turns / speeds.of_memory().value)
    assert found.precision == "none"


def test_pytorch_that_is_not_there_or_has_no_gpu_is_a_sentence():
    row = OF_TINY[TORCH_FIT]
    if not is_installed("torch"):
        with pytest.raises(ValueError, match="PyTorch is not installed"):
            row.measure(**row.settings)
        return
    found = row.measure(**row.settings)
    assert (found.unit, found.amount, len(found.seconds)) == ("fits", 2, 3)
    assert found.how.endswith("2 of 2 that were judged are optima")
    with pytest.raises(ValueError, match="finds no CUDA device"):
        row.measure(**row.settings | {"device": "cuda"})


@pytest.mark.parametrize(("norm", "met", "optima"), [(1.0, True, 2), (1.2, True, 0), (0.5, False, 0)])
def test_fits_that_are_no_optima_are_counted(monkeypatch, norm, met, optima):
    solved = 2 * [problems.Solution(np.zeros(3), 1.0, met)]
    monkeypatch.setattr(problems, "judge", lambda *_: problems.Judgement(norm, 0.0))
    assert trees._judged(None, None, None, [None, None], solved) == f"{optima} of 2 that were judged are optima"


@pytest.fixture
def of(monkeypatch):
    """Speeds on a device that jax calls so."""

    class Device:
        platform = "gpu"

    def named(kind):
        Device.device_kind = kind
        speeds.of_products.cache_clear()
        speeds.of_memory.cache_clear()
        monkeypatch.setattr(speeds.jax, "local_devices", lambda: [Device])

    yield named
    speeds.of_products.cache_clear()
    speeds.of_memory.cache_clear()


def test_speeds_are_those_that_are_published_or_are_measured(of):
    of("NVIDIA H100 80GB HBM3")
    chip = chip_named("H100")
    assert speeds.of_products("bfloat16") == (chip.flops_bfloat16, "published")
    assert speeds.of_products("float32") == (chip.flops_float32, "published")
    assert speeds.of_memory() == (chip.bandwidth_bytes_per_s, "published")
    assert speeds.of_memory().seconds(1.0) == 1 / chip.bandwidth_bytes_per_s / jax.local_device_count()
    assert speeds.product("float32", 64).floors == {"matrix units": 2 * 64**3 / chip.flops_float32}
    assert speeds.copy(64).floors == {"memory": 512 / chip.bandwidth_bytes_per_s}
    of("Chip X")
    assert speeds.of_products("float32").source == "measured"
    assert speeds.of_memory().source == "measured"
    assert speeds.product("float32", 64).floors == {}


def test_the_batch_is_the_largest_that_fits(monkeypatch):
    work = Work(pythia("410m"), "dpo", 2, 512, 53, fsdp=2)

    def room(bytes):
        monkeypatch.setattr(transformers, "memory_per_device", lambda: bytes)
        return transformers.largest(memory.training, work, 32)

    plenty = room(1e15)
    assert (plenty.rows, plenty.shape.remat, plenty.stored_rows) == (64, False, 128)
    eight = replace(plenty, rows=16, stored_rows=32)
    kept = room(memory.training(eight).total)
    assert (kept.rows, kept.shape.remat) == (16, False)
    again = room(memory.training(eight).total - 1)
    assert again.shape.remat
    assert memory.training(again).total <= memory.training(eight).total - 1
    assert again.rows == 64 or memory.training(replace(again, rows=2 * again.rows)).total > memory.training(eight).total
    with pytest.raises(ValueError, match=r"a single row needs .* GiB on a device, and there are 1 MiB"):
        room(2**20)


def test_decoding_reads_the_weights_and_what_the_cache_holds():
    """By hand: 2 layers of 8, a head of 8, V = 10; a token's keys and values are 2 x 2 x 8 numbers of two bytes."""
    shape = transformers.neox(10, layers=2, width=8, heads=1, start=False, dtype="bfloat16")
    block = 2 * (2 * 8) + (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    weights = 2 * block + 2 * 8 + 8 * 10
    cache = 3 * 64
    expected = 6 * 2 * weights + cache * (6 + 7 + 8 + 9 + 10)
    assert transformers.read_by_decoding(Work(shape, "sft", 3, 5, 6)) == pytest.approx(expected)


def test_memory_that_was_estimated_wrongly_is_tried_with_half_the_batch(monkeypatch):
    tried = []

    def trained(work, steps):
        tried.append(work.rows)
        if work.rows > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return "measured"

    monkeypatch.setattr(transformers, "_trained", trained)
    assert transformers.training("sft", "tiny", 4, 4, 4, 1) == "measured"
    assert tried == [8, 4, 2]
    monkeypatch.setattr(transformers, "is_out_of_memory", lambda error: False)
    with pytest.raises(jax.errors.JaxRuntimeError):
        transformers.training("sft", "tiny", 4, 4, 4, 1)
