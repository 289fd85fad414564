"""The commands: what they print, their help, and what they say to bad input."""

import re

import jax
import pytest

from experiments.cli import arguments, doctor, folders, main, runner
from experiments.kit.backends import on_backend
from experiments.kit.findings import Finding
from experiments.questions import equivalence, questions
from gvgap_jax.runtime import compile_cache, files
from gvgap_jax.sweep import at_once, folder_at, load, make_plan, open_folder, run_plan
from gvgap_jax.sweep.look import look, manifest
from tests.kit.fixed import fixed
from tests.report.toy_questions import install

TINY = ["run", "equivalence", "--grid.horizon", "1", "2", "--grid.pairs", "8", "--seeds", "2"]


def printed_by(capsys, *command, status=0):
    """What a command prints, in one line."""
    if status:
        with pytest.raises(SystemExit) as stopped:
            main.main([str(argument) for argument in command])
        assert stopped.value.code == status
    else:
        main.main([str(argument) for argument in command])
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(folders.console, "_width", 300)


@pytest.fixture
def half(tmp_path, capsys):
    """A folder in which one of two programs is done."""
    printed = printed_by(capsys, *TINY, "--shard", "0/2", "--out", tmp_path)
    assert "Chunks left for other shards: 1 of 'distances'" in printed
    return tmp_path


def test_status_of_a_half_done_folder(half, capsys):
    printed = printed_by(capsys, "status", half)
    assert "2 of 10 cells done, 8 left" in printed
    assert "program cells done at once run left" in printed
    assert "horizon 1 2 2 2 " in printed
    assert "horizon 2 8 0 " in printed
    one, two = folders.programs(look(folder_at(half)), manifest(folder_at(half))["programs"])
    assert (one.done, one.cells, two.done, two.cells) == (2, 2, 0, 8)
    assert (one.at_once, two.at_once) == (2, 0)
    assert len(one.compile_seconds) == 1
    assert two.compile_seconds == []
    assert one.left_seconds == 0
    assert two.left_seconds == pytest.approx(8 * one.seconds / one.done)


def test_status_names_what_failed_and_what_was_set_aside(half, capsys):
    files.save_failure(folder_at(half), "distances-0", "[it] rained")
    (half / files.SET_ASIDE).mkdir()
    (half / files.SET_ASIDE / "odd.parquet").touch()
    printed = printed_by(capsys, "status", half)
    assert "distances-0 failed: [it] rained" in printed
    assert "set aside: odd.parquet" in printed


def test_the_other_shard_finishes_and_prints_the_findings(half, capsys):
    printed = printed_by(capsys, *TINY, "--shard", "1/2", "--out", half)
    assert "classes equal" in printed
    assert "10 of 10 cells done, 0 left" in printed_by(capsys, "status", half)
    assert "distances.parquet: 2 chunks" in printed_by(capsys, "compact", half)
    assert "10 of 10 cells done, 0 left" in printed_by(capsys, "status", half)
    assert len(load(half, "distances")) == 10


def test_damaged_files_are_named_when_a_run_goes_on(half, capsys):
    (victim,) = half.glob("distances-*.parquet")
    victim.write_bytes(b"not parquet at all")
    printed = printed_by(capsys, *TINY, "--out", half)
    assert f"{victim.name} is damaged" in printed
    assert "10 cells computed" in printed


def test_a_failing_chunk_ends_in_status_1_and_the_command_that_tries_again(tmp_path, capsys, monkeypatch):
    def fails(plan, folder, stopped):
        report = run_plan(plan, folder, stopped=stopped)
        return report._replace(failed={"distances-1": "RuntimeError: it rained"})

    grid = arguments.grid_of(tiny_options(), equivalence.PRESETS["tiny"])
    with pytest.raises(SystemExit) as stopped:
        runner.execute("equivalence", equivalence, grid, tmp_path, fails)
    assert stopped.value.code == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "distances-1 failed: RuntimeError: it rained" in printed
    assert "Try the failed ones again with: python -m experiments" in printed


def tiny_options():
    options = arguments.options_of("equivalence", equivalence, "quick")
    axes = type(options().grid)(horizon=(2,), pairs=(8,))
    return options(grid=axes, seeds=2)


def test_quickstart_and_run_share_a_folder(tmp_path, capsys):
    """The grid of a preset and the options that repeat it are the same plan."""
    grid = equivalence.PRESETS["quick"]
    plan = make_plan("equivalence", equivalence, grid)
    open_folder(folder_at(tmp_path), plan)
    options = arguments.options_of("equivalence", equivalence, "quick")()
    asked = arguments.grid_of(options, grid)
    assert open_folder(folder_at(tmp_path), make_plan("equivalence", equivalence, asked)) == []


def test_axes_can_be_zipped_and_pairs_called_n(tmp_path, capsys):
    command = ["run", "equivalence", "--grid.horizon", "1", "2", "--grid.n", "8", "16", "--zip", "horizon,pairs"]
    printed_by(capsys, *command, "--seeds", "2", "--out", tmp_path)
    found = load(tmp_path, "distances").select("horizon", "pairs").unique().sort("horizon").rows()
    assert found == [(1, 8), (2, 16)]


def test_records_go_to_an_object_store(capsys):
    command = [*TINY, "--out", "memory://commands/equivalence"]
    assert "10 cells computed" in printed_by(capsys, *command)
    assert "0 cells computed, 10 found done" in printed_by(capsys, *command)
    assert "10 of 10 cells done" in printed_by(capsys, "status", "memory://commands/equivalence")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["status", "nowhere"], "nowhere holds no records. Run the experiment first"),
        (["compact", "nowhere"], "nowhere holds no records. Run the experiment first"),
        ([*TINY, "--shard", "2/2"], "a shard is i/n with 0 <= i < n, got 2/2"),
        ([*TINY, "--shard", "one"], "--shard must be i/n, as in 0/4, got 'one'"),
        ([*TINY, "--engine", "slurm", "--shard", "0/2"], "give --slurm.jobs instead of --shard"),
        ([*TINY, "--engine", "ray", "--ray.cpus", "0"], "needs at least 1 CPU"),
        ([*TINY, "--engine", "spark"], "invalid choice"),
        ([*TINY, "--grid.horizons", "2"], "--grid.horizon [INT"),
        (["run", "equivalance"], "there is no experiment 'equivalance'"),
        (["run", "equivalance"], "Did you mean 'equivalence'?"),
        (["run", "--preset", "paper"], "the experiment's name comes before its options"),
        (["run", "rival_plateau", "--backend", "transformer"], "'transformer': one stage is over all policies of ten"),
        (["figures", "equivalance"], "Did you mean 'equivalence'?"),
        (["report", "--tables", "none.md"], "none.md: No such file or directory."),
        (["bench", "--experiment", "equivalence"], "only sweeps and kills run an --experiment"),
        (["bench", "kills", "--experiment", "equivalance"], "Did you mean 'equivalence'?"),
        (["lst"], "there is no command 'lst'; there are list, run,"),
        ([*TINY, "--grid.beta", "0"], "beta must be positive, between 0.01 and 100, got 0.0"),
        ([*TINY, "--zip", "horizon,beta"], "zipped axes need the same number of values"),
        ([*TINY, "--seeds", "0"], "seeds must be at least 1, got 0"),
    ],
)
def test_bad_input_ends_in_one_clear_line(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    assert message in printed_by(capsys, *command, status=2)
    assert not list(tmp_path.glob("results/*/*.parquet"))


def test_a_wrong_option_names_the_command_that_was_typed_and_no_other(capsys):
    printed = printed_by(capsys, *TINY, "--grid.horizons", "2", status=2)
    assert "python -m experiments run equivalence --help" in printed
    assert printed.count("--help") == 1


# Help, lists and tables


def help_of(capsys, monkeypatch, *command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as stopped:
        main.main([*command, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


COMMANDS = [[name] for name in main.COMMANDS if name not in ("list", "run", "rehearse", "status", "compare", "compact")]
RUNS = [["run", name] for name in (*questions(), "all", "tldr")]
RUNS += [["rehearse", name] for name in ("equivalence", "tldr")]


@pytest.mark.parametrize("command", [*COMMANDS, *RUNS], ids=" ".join)
def test_help_explains_every_option_once(capsys, monkeypatch, command):
    printed = help_of(capsys, monkeypatch, *command, width=1000)
    assert "--help" in printed
    wordless = re.findall(r"\n[│ ] *(--[a-z]\S*(?: \S+)*) {2,}\((?:default|required)", printed)
    assert not wordless + re.findall(r"(--[a-z]\S*[^\n]*)\n[│ ] +\((?:default|required)", printed)
    assert "Attributes:" not in printed
    options = re.findall(r"\n[│ ] *(--[a-z]\S*)", printed)
    assert options
    assert len(options) == len(set(options))


def test_help_of_an_experiment_begins_with_its_question(capsys, monkeypatch):
    printed = help_of(capsys, monkeypatch, "run", "equivalence", width=120)
    assert printed.startswith("usage: python -m experiments run equivalence")
    assert "How far apart do both methods end as classes differ?" in printed


@pytest.mark.parametrize("command", [[], ["--help"]])
def test_every_command_has_a_line(capsys, monkeypatch, command):
    monkeypatch.setattr(folders.console, "_width", 80)
    main.main(command)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(main.COMMANDS)


@pytest.mark.parametrize("backend", ["tree", "transformer"])
def test_everything_that_can_be_run_has_a_line(capsys, monkeypatch, backend):
    monkeypatch.setattr(folders.console, "_width", 80)
    main.main(["run", "--help", "--backend", backend])
    lines = capsys.readouterr().out.splitlines()
    there = [line.split()[0] for line in lines[1:]]
    assert there == [*on_backend(questions(), backend), "all", "tldr"]
    assert lines[1].rstrip().endswith("Do online samples carry information of their own?")


def test_list_counts_cells_and_programs(capsys, monkeypatch):
    install(monkeypatch, {"equivalence": equivalence})
    printed = printed_by(capsys, "list")
    plan = make_plan("equivalence", equivalence, equivalence.PRESETS["standard"])
    cells = sum(chunk.size for chunk in plan.chunks)
    programs = len({chunk.batch.program for chunk in plan.chunks})
    assert re.search(rf" equivalence 3x24 \S+ 5x64 {cells:,}/{programs} \S+ 6x64 13x256 ", printed)
    for other in ("run all", "run tldr", "pythia-1b", "quickstart", "bench kills", "python -m theory", "local_rewards"):
        assert other in printed


def test_findings_fit_80_columns_and_no_number_is_broken(capsys, monkeypatch):
    claim = "H=6, simple gold (order 2): pairs DPO needs for the regret of RLHF"
    number = fixed(-0.0899999, -0.0018333, 23, failed=1, estimate=-0.0123456)
    monkeypatch.setattr(folders.console, "_width", 80)
    runner.show("toy", [Finding(claim, number, "of the gain", 0.0, "above")], {})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for whole in (" -0.0123 ", " -0.09 to -0.00183 ", " 23 of 24 ", " contradicted "):
        assert whole in printed
    assert "\nregret: KL divergence of a policy from the best" in printed
    assert "\norder: of a reward" in printed


def test_programs_of_a_folder_have_short_and_different_labels():
    """Also those of every experiment there is."""
    programs = ["Program(arm='DPO', tree=Tree(horizon=2), n=8)", "Program(arm='DPO', tree=Tree(horizon=3), n=8)"]
    assert folders.short_labels(programs) == ["horizon 2", "horizon 3"]
    assert folders.short_labels(programs[:1]) == ["arm DPO, horizon 2, n 8"]
    assert folders.short_labels(["'even'", "<odd>"]) == ["even", "<odd>"]
    for module in questions().values():
        plan = make_plan("", module, module.PRESETS["quick"])
        labels = folders.short_labels(list(dict.fromkeys(repr(chunk.batch.program) for chunk in plan.chunks)))
        assert len(set(labels)) == len(labels)


def test_doctor_shows_the_machine(capsys, monkeypatch):
    monkeypatch.setattr(doctor.console, "_width", 300)
    printed = printed_by(capsys, "doctor")
    for fact in ("platform", f"{jax.local_device_count()} (cpu)", jax.__version__, "GiB", "compiled programs"):
        assert fact in printed
    assert doctor.facts()["cells of a sweep at once"] == "a chunk"
    monkeypatch.setattr(at_once, "is_accelerator", lambda device: True)
    assert doctor.facts()["cells of a sweep at once"] == f"up to {4096 * jax.local_device_count():,}"


def test_doctor_fails_when_the_platform_is_another_one(capsys):
    printed = printed_by(capsys, "doctor", "--platform", "tpu", status=1)
    assert 'wanted tpu, but jax runs on cpu. On a TPU VM: pip install "jax[tpu]"' in printed
    assert "wanted" not in printed_by(capsys, "doctor", "--platform", "cpu")


@pytest.fixture
def cache_folder():
    """Sets jax's cache folder for the length of a test."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda path: jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_compilation_cache_dir", before)


def test_doctor_sees_the_cache(tmp_path, cache_folder):
    (tmp_path / "program").write_bytes(b"0" * 2**20)
    for path, state in ((tmp_path, "1 files, 1 MiB"), (tmp_path / "none", "(empty)"), (None, "compiles again")):
        cache_folder(path and str(path))
        assert state in doctor.facts()["compiled programs"]


def test_compiled_programs_are_kept_apart_by_processor_and_jaxlib(monkeypatch, cache_folder):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    compile_cache.keep_compiled_programs()
    here = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(compile_cache.platform, "machine", lambda: "another")
    compile_cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir != here
    monkeypatch.undo()
    monkeypatch.setattr(compile_cache, "version", lambda package: "0.0.1")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    compile_cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir != here


def test_a_cache_folder_named_by_the_user_is_left_alone(monkeypatch, cache_folder):
    cache_folder("mine")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    compile_cache.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "mine"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ValueError("it holds \x1b[2J\x1b[31mall is well\x07, which"),
            r"it holds \x1b[2J\x1b[31mall is well\x07, which",
        ),
        (ValueError("two\nlines, é and \u202e"), "two\nlines, é and \\u202e"),
        (FileNotFoundError(2, "No such file", "a\rb"), r"a\rb: No such file."),
        (ValueError("caf\udce9"), r"caf\udce9"),
    ],
)
def test_a_name_in_an_error_cannot_paint_the_terminal(error, words):
    assert main.describe(error) == words
