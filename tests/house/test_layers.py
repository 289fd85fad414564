"""The direction of imports between rooms, read from the source, and where files may be touched."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ["types", "tree", "divergence", "soft_rl", "features", "policies", "verifiers", "tasks", "preferences", "losses"]
CORE += ["optimize", "algorithms", "complexity", "metrics", "pair_moments", "prediction", "rollouts", "online"]
LM = {  # rooms of transformers, and those that each may import
    "model": set(),
    "hf": {"model"},
    "data": set(),
    "judges": set(),
    "budget": {"model"},
}
BELOW = {  # a room: the rooms that it may import
    "gvgap_jax.runtime": set(),
    "gvgap_jax": {"gvgap_jax.runtime"},
    "gvgap_jax.sweep": {"gvgap_jax.runtime"},
    "gvgap_jax.training": {"gvgap_jax.runtime", "gvgap_jax"},
    "gvgap_jax.token_tasks": {"gvgap_jax"},
    "gvgap_jax.lm": {"gvgap_jax.runtime", "gvgap_jax"},
}
LIBRARY = {*BELOW}
BELOW |= {
    "theory": LIBRARY,
    "experiments.kit": LIBRARY,
    "experiments.questions": {*LIBRARY, "theory", "experiments.kit"},
    "experiments.report": {*LIBRARY, "experiments.kit", "experiments.questions"},
    "experiments.tldr": {*LIBRARY, "experiments.kit", "experiments.report"},
    "experiments.rehearsal": {*LIBRARY, "experiments.kit", "experiments.questions", "experiments.tldr"},
    "experiments.benchmarks": {*LIBRARY, "experiments", "experiments.kit", "experiments.questions", "experiments.tldr"},
}
BELOW["experiments.cli"] = {*BELOW} | {"experiments"}
BELOW["experiments"] = {*LIBRARY, "experiments.cli"}  # __main__
FILE_MODULES = {"builtins", "fileinput", "glob", "io", "pathlib", "pickle", "polars", "shutil", "socket", "subprocess"}
FILE_MODULES |= {"sys", "tempfile", "urllib", "logging", "importlib"}
FILE_CALLS = {"open", "print", "input", "save", "savez", "load", "loadtxt", "savetxt", "fromfile", "tofile", "memmap"}
TOUCHES_FILES = ("runtime", "sweep", "lm/hf", "lm/data", "lm/judges", "__main__.py")  # rooms of the library
TOUCHES_FILES += ("training/train.py", "training/checkpoints.py", "training/curves.py")
MOST_LINES = 350
OF_THE_MACHINE = {"sysconf", "environ", "sched_getaffinity"}


def imported(source):
    """Dotted names of everything a file imports, wherever in the file the import stands."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name):
    """The room of a dotted name: the longest that it begins with; None outside of the project."""
    rooms = [room for room in BELOW if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def touches_files(source):
    """What a file uses that could read or write outside of memory."""
    found = {name for name in imported(source) if name.split(".")[0] in FILE_MODULES}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= {called} & FILE_CALLS
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found |= {f"os.{node.attr}"} - {f"os.{name}" for name in OF_THE_MACHINE}
    return found


def identify(path):
    return path.relative_to(ROOT).as_posix()


FILES = sorted(path for package in ("gvgap_jax", "theory", "experiments") for path in (ROOT / package).rglob("*.py"))
IN_CORE = [path for path in (ROOT / "gvgap_jax").glob("*.py") if not path.name.startswith("__")]
ELSEWHERE = [
    path
    for path in (ROOT / "gvgap_jax").rglob("*.py")
    if not path.relative_to(ROOT / "gvgap_jax").as_posix().startswith(TOUCHES_FILES)
]


def forbidden(path, source):
    """Imports of a file that run against the direction of the rooms."""
    room = room_of(dotted(path))
    return {name for name in imported(source) if room_of(name) not in {None, room} | BELOW[room]}


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_run_down(path):
    assert not forbidden(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_a_file_is_short(path):
    assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES


def test_the_core_is_named_in_the_order_of_the_paper():
    assert {path.stem for path in IN_CORE} == set(CORE)


@pytest.mark.parametrize("path", IN_CORE, ids=identify)
def test_a_file_of_the_core_imports_only_earlier_files(path):
    own = {name.split(".")[1] for name in imported(path.read_text()) if name.startswith("gvgap_jax.")}
    assert own & set(CORE) <= set(CORE[: CORE.index(path.stem)])


@pytest.mark.parametrize("room", LM)
def test_rooms_of_transformers_import_only_those_below(room):
    for path in (ROOT / "gvgap_jax" / "lm" / room).glob("*.py"):
        others = {name.split(".")[2] for name in imported(path.read_text()) if name.startswith("gvgap_jax.lm.")}
        assert others & set(LM) - {room} <= LM[room], identify(path)


@pytest.mark.parametrize("path", ELSEWHERE, ids=identify)
def test_the_library_touches_no_files_elsewhere(path):
    assert not touches_files(path.read_text())


def test_a_forbidden_import_would_be_seen():
    core, question = ROOT / "gvgap_jax" / "tree.py", ROOT / "experiments" / "questions" / "new.py"
    assert forbidden(core, "def late():\n    from gvgap_jax.sweep import load") == {"gvgap_jax.sweep.load"}
    assert forbidden(core, "import theory.rates\nimport numpy") == {"theory.rates"}
    assert forbidden(question, "from experiments.cli import runner") == {"experiments.cli.runner"}
    assert not forbidden(question, "from experiments.kit import findings\nfrom gvgap_jax import TokenTree")


@pytest.mark.parametrize(
    "source", ["open('x')", "from pathlib import Path", "np.save('x', y)", "import os\nos.remove('x')", "print(1)"]
)
def test_a_touched_file_would_be_seen(source):
    assert touches_files(source)
