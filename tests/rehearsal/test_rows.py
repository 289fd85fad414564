"""Rows of a rehearsal: stored one by one, read again, and never trusted when they are damaged or of something else."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.rehearsal import pages, rows, table
from experiments.rehearsal import rehearse as compiling
from experiments.rehearsal.programs import Program
from experiments.rehearsal.rehearse import fits, rehearse
from experiments.rehearsal.rows import Difference
from experiments.rehearsal.table import Rehearsed
from gvgap_jax.runtime.chips import chip_named
from gvgap_jax.runtime.collectives import Collective
from gvgap_jax.runtime.compiled import Facts
from gvgap_jax.runtime.files import folder_at
from gvgap_jax.runtime.targets import Target, here

COLLECTIVES = Collective("all-reduce", "fsdp", 3e6, 40.0), Collective("all-gather", "tensor", 1e4, 2.0)
FACTS = Facts(61.0, 2**30, 3e12, 5e9, 1000.0, COLLECTIVES, "bfloat16")


def target(memory=16):
    return Target("v5e-4", chip_named("v5e")._replace(memory_bytes=memory * 2**30), tuple(jax.devices("cpu")[:1]))


def program(name="a step", function=jnp.sin, calls=1, rows=2, lowest="float32"):
    shape = jax.ShapeDtypeStruct((rows, 3), jnp.float32)
    return Program(name, lambda: jax.jit(function).lower(shape), calls, rows, lowest)


def row(facts=FACTS, wrong="", **how):
    return rows.Row(program(**how), facts, wrong=wrong)


def matrix_product(x):
    return x @ x.T


def test_a_program_is_compiled_once_and_then_read(tmp_path, monkeypatch):
    folder, wanted = folder_at(tmp_path) / "new", [program(), program("a product", matrix_product)]
    first = rehearse(wanted, here(), folder)
    assert [each.program for each in first] == wanted
    assert [each.facts.precision for each in first if each.facts] == ["none", "float32"]
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: pytest.fail("it is there already"))
    assert rehearse(wanted, here(), folder, minutes=0) == first


def test_what_is_stored_is_read_to_the_same(tmp_path):
    for stored in (row(), row()._replace(operations=(1.5, 2.0))):
        rows.store(folder_at(tmp_path), stored, "one")
        found = rows.stored(folder_at(tmp_path), stored.program, "one")
        assert found == stored
    assert rows.stored(folder_at(tmp_path), program(), "another") is None


def test_a_program_that_needs_too_much_is_taken_with_fewer_rows(tmp_path):
    seen = []

    def fewer(needed):
        seen.append(needed)
        return program("fewer", rows=4)

    (found,) = rehearse([program("many", rows=512)._replace(fewer=fewer)], here(), folder_at(tmp_path))
    assert found.program.name == "fewer"
    assert seen
    assert seen[0] >= 2 * 512 * 3 * 4  # arguments and results


def test_a_program_that_the_compiler_refuses_for_its_memory_is_taken_with_fewer_rows(tmp_path, monkeypatch):
    seen, compile_ = [], jax.stages.Lowered.compile
    words = "RESOURCE_EXHAUSTED: Ran out of memory: required for HLO temporaries (2.00G) exceeds available HBM (1.00G)."

    def compiled(lowered):
        if "tensor<8x3xf32>" in lowered.as_text():
            raise jax.errors.JaxRuntimeError(words)
        return compile_(lowered)

    def fewer(needed):
        seen.append(needed)
        return program("fewer", rows=4)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
    (found,) = rehearse([program(rows=8)._replace(fewer=fewer)], here(), folder_at(tmp_path))
    assert (seen, found.program.name, found.wrong) == ([2 * 2**30], "fewer", "")
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda _: pytest.fail("both are stored"))
    (refused,) = rehearse([program(rows=8)], here(), folder_at(tmp_path))
    assert refused.wrong == f"does not fit: {words}"
    assert not refused.fits(here())
    (again,) = rehearse([program(rows=8)._replace(fewer=fewer)], here(), folder_at(tmp_path))
    assert (seen, again.facts) == (2 * [2 * 2**30], found.facts)


def test_loops_of_unknown_length_make_a_call_longer_by_what_a_row_was_seen_to_take(tmp_path):
    asked = program(rows=8)._replace(operations=lambda: (50.0, 200.0))
    (found,) = rehearse([asked], here(), folder_at(tmp_path))
    assert found.facts is not None
    assert found.operations == (50.0, 200.0)
    mean, most = found.turns(devices=2)
    assert (mean, most) == (50 * 4 / found.facts.flops, 200 * 4 / found.facts.flops)
    known, unknown = (table.hours([each], target()) for each in (row(), row()._replace(operations=(3e12, 6e12))))
    assert unknown.low == pytest.approx(2 * known.low)  # two rows on one device
    assert unknown.high == pytest.approx(4 * (known.high - 61 / 3600) + 61 / 3600)
    assert row().turns(4) == (1, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"compile_seconds": 1.0, "collectives": [{}]}'])
def test_a_damaged_row_is_set_aside_and_compiled_again(tmp_path, capsys, content):
    folder = folder_at(tmp_path)
    (found,) = rehearse([program()], here(), folder)
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    (again,) = rehearse([program()], here(), folder)
    assert again.facts is not None
    assert found.facts is not None
    assert again.facts._replace(compile_seconds=0) == found.facts._replace(compile_seconds=0)
    assert "set aside" in " ".join(capsys.readouterr().out.split())


def test_a_key_knows_the_program_the_devices_and_the_compilers(monkeypatch):
    text = program().lower().as_text()
    known = {rows.key(text, target()), rows.key(program(rows=4).lower().as_text(), target()), rows.key(text, here())}
    monkeypatch.setattr(rows, "_version", lambda package: "another")
    known.add(rows.key(text, target()))
    monkeypatch.setattr(rows, "READING", rows.READING + 1)
    known.add(rows.key(text, target()))
    assert len(known) == 5


@pytest.mark.parametrize("package", ["jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"])
def test_another_version_of_any_compiler_is_another_key(monkeypatch, package):
    version, before = rows._version, rows.key("a program", target())
    monkeypatch.setattr(rows, "_version", lambda name: "another" if name == package else version(name))
    assert rows.key("a program", target()) != before


@pytest.mark.parametrize(("seconds", "compiled"), [(179, 1), (181, 0)])
def test_minutes_have_sixty_seconds(tmp_path, monkeypatch, seconds, compiled):
    clock, asked = [0.0], program()
    monkeypatch.setattr(compiling, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def lower():
        clock[0] = seconds
        return asked.lower()

    assert len(rehearse([asked._replace(lower=lower)], here(), folder_at(tmp_path), minutes=3)) == compiled


def test_a_program_fits_if_every_device_has_its_memory(tmp_path):
    assert fits(program(), here(), folder_at(tmp_path))
    small = here()._replace(chip=here().chip._replace(memory_bytes=10))
    assert not fits(program(), small, folder_at(tmp_path))


def test_no_compilation_begins_after_the_minutes_or_a_stop(tmp_path):
    folder = folder_at(tmp_path)
    assert rehearse([program()], here(), folder, minutes=0) == []
    assert rehearse([program()], here(), folder, stopped=lambda: True) == []
    assert not list(tmp_path.iterdir())


def test_what_does_not_compile_or_cannot_be_traced_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    def refuse(x):
        raise ValueError("no such shape\nand more")

    compile_ = jax.stages.Lowered.compile

    def fail_for_cosines(self):
        if "cosine" in self.as_text():
            raise jax.errors.JaxRuntimeError("INTERNAL: no cosine here\nat file 3")
        return compile_(self)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail_for_cosines)
    wanted = [program("bad", refuse), program("cosine", jnp.cos), program()]
    bad, cosine, good = rehearse(wanted, here(), folder_at(tmp_path))
    assert bad.wrong == "cannot be traced: ValueError: no such shape"
    assert cosine.wrong == "does not compile: INTERNAL: no cosine here"
    assert good.facts is not None
    sentences = table.wrong([bad, cosine, good], here())
    assert sentences == [(bad, f"bad {bad.wrong}"), (cosine, f"cosine {cosine.wrong}")]


def test_a_lower_precision_than_allowed_and_too_little_memory_are_said():
    low, large, fine = row(), row(lowest="bfloat16"), row(facts=FACTS._replace(precision="none"))
    assert table.too_low(low)
    assert not table.too_low(large)
    ((_, sentence),) = table.wrong([low, fine, large], target())
    assert sentence == "a step has a matrix product in bfloat16, and its room allows float32"
    ((_, sentence),) = table.wrong([large], target(memory=1))
    assert sentence == "a step needs 1.0 GiB on each device, and a program can count on 819 MiB of a TPU v5e"


@pytest.mark.parametrize("precision", ["tf32", "bfloat16_3x", "float16", "float8"])
def test_float32_is_the_highest_that_a_float32_room_has(precision):
    assert table.too_low(row(facts=FACTS._replace(precision=precision)))
    assert not table.too_low(row(facts=FACTS._replace(precision="float64")))


def test_hours_are_a_range_of_shares_of_the_bound_over_all_calls():
    chip, calls = target().chip, 1000
    seconds = 3e12 / chip.flops_bfloat16
    low, high = table.hours([row(calls=calls), row(facts=None, wrong="does not compile")], target())
    assert low == pytest.approx(calls * seconds / 0.6 / 3600)
    assert high == pytest.approx((calls * (seconds / 0.15 + 1000 * 5e-6) + 61) / 3600)


def test_the_table_has_a_line_a_program_and_the_links_by_axis(capsys, monkeypatch):
    monkeypatch.setattr(table.console, "_width", 240)
    wanted = [row(calls=1200), row(facts=None, wrong="does not compile: too odd", name="another")]
    estimate = Difference("a step", "its gradients", 3 * 2**30, 2**31)
    done = Rehearsed("a run", target(), wanted, 0, 1.0, [estimate], [])
    table.show(done, price=2.0)
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "a step 2 1,200 61 s 1.0 GiB 3e+03 5 matrix units 15 ms 1.5e+06 MFLOP 2.5e+03 MB bfloat16 all-reduce fsdp 3 MiB"
        in printed
    )
    assert "another 2 1 does not compile: too odd" in printed
    assert "tensor" not in printed  # less than a hundredth
    assert "The run takes 30 s to 3.1 min, 0.017 to 0.1 at 2 an hour" in printed
    assert "a step its gradients 3.0 GiB 2.0 GiB 1.50" in printed
    assert "This part, 0.25 of the run's rows, takes 30 s" in table.summary(done._replace(left=3, share=0.25), None)


def test_the_summary_has_the_largest_memory_and_the_seconds_of_all_compilations():
    small = FACTS._replace(memory=2**29, compile_seconds=119.0)
    done = Rehearsed("a run", target(), [row(), row(facts=small), row(facts=small)], 0, 1.0, [], [])
    assert "3 programs compiled in 5 min; the largest needs 1.0 GiB of" in table.summary(done, None)


def test_a_page_has_the_command_the_tables_and_what_is_wrong():
    estimate = Difference("a step", "its gradients", 3 * 2**30, 2**31)
    wanted = [row(), row(name="another")]
    page = pages.of_run("a --slice b", Rehearsed("a run", target(), wanted, 3, 0.25, [estimate], ["It is large."]))
    for words in (
        "\n| a step | 2 | 1 | 61 s |",
        "\n| another | 2 | 1 | 61 s |",
        "python -m experiments rehearse a --slice b\n",
        "| all-reduce fsdp 3 MiB |",
        "3 more programs were not compiled.",
        "\n- It is large.\n",
        "| a step | its gradients | 3.0 GiB | 2.0 GiB | 1.50 |",
    ):
        assert words in page


def test_devices_are_compared_program_by_program_where_all_have_it():
    tpu, cpu = Target("v5e-8", chip_named("v5e"), 8 * target().devices), target()
    ours, theirs = [row(rows=8), row(rows=16, name="another")], [row(rows=64), row(facts=None, name="another")]
    done = [Rehearsed("", cpu, ours, 0, 1.0, [], []), Rehearsed("", tpu, theirs, 0, 1.0, [], [])]
    heading, _, *lines = pages.by_device(done).splitlines()
    assert heading == "| program | devices | cells at once | a fit |"
    assert lines == [
        f"| a step | 1 x {cpu.chip.name} | 8 | {table.of_a_row(ours[0], cpu)} |",
        f"| a step | 8 x {tpu.chip.name} | 64 | {table.of_a_row(theirs[0], tpu)} |",
    ]


def test_a_batch_turns_until_its_slowest_row_is_done_and_a_cpu_does_not():
    each = row(rows=64)._replace(operations=(3e12, 6e12))
    cpus, tpus = here(), Target("v5e-2", chip_named("v5e"), 2 * (SimpleNamespace(platform="tpu"),))
    assert table.turns(each, cpus) == 64 / len(cpus.devices)
    assert table.turns(each, tpus) == 2 * 64 / 2
    assert table.cells(each, tpus)[5:9] == ["1.92e+05", "320", "matrix units 970 ms", "6e+06 MFLOP 1e+04 MB"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(7200, "2 h"), (61, "1 min"), (3.21, "3.2 s"), (0.05, "50 ms"), (4e-7, "0.4 µs")]
)
def test_times_for_people(seconds, words):
    assert table.time_of(seconds) == words
