"""The direction of imports, read from the source, and where files may be touched."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = [
    *("types", "tree", "divergence", "soft_rl", "features", "policies", "verifiers", "tasks", "preferences", "losses"),
    *("optimize", "algorithms", "online", "sampled", "metrics", "complexity", "parallel", "sweep", "lm"),
]
LM_ORDER = [
    *("tasks", "shape", "pythia", "chips", "transformer", "decode", "backend", "objectives", "data", "loop"),
    *("footprints", "hours", "resources", "layouts", "architectures", "tensors", "weights", "exports", "text"),
    *("formats", "records", "corpora", "encoded", "judges", "endpoint", "processes", "programs", "checkpoints"),
    *("streams", "train"),
]
MAY_IMPORT = {"gvgap_jax": {"gvgap_jax"}, "theory": {"gvgap_jax", "theory"}}
PROJECT = {"gvgap_jax", "theory", "experiments", "tests"}
FILE_MODULES = {"builtins", "fileinput", "glob", "io", "pathlib", "pickle", "polars", "shutil", "socket", "subprocess"}
FILE_MODULES |= {"sys", "tempfile", "urllib", "logging", "importlib"}
FILE_CALLS = {"open", "print", "input", "save", "savez", "load", "loadtxt", "savetxt", "fromfile", "tofile", "memmap"}
MAY_TOUCH_FILES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gvgap_jax" / "sweep").glob("*.py")}
MAY_TOUCH_FILES |= {f"gvgap_jax/lm/{name}.py" for name in ("train", "checkpoints", "streams")}
MAY_TOUCH_FILES |= {
    f"gvgap_jax/lm/{name}.py" for name in ("weights", "exports", "text", "corpora", "endpoint", "processes")
}
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


def modules_of(names):
    """Modules of the library among dotted names; anything taken from its public face counts as ``__init__``."""
    inside = [name.split(".") for name in names if name.split(".")[0] == "gvgap_jax"]
    return {parts[1] if len(parts) > 1 and parts[1] in ORDER else "__init__" for parts in inside}


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


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def identify(path):
    return path.relative_to(ROOT).as_posix()


LIBRARY = [path for path in files("gvgap_jax") if path != ROOT / "gvgap_jax" / "__init__.py"]


def place(path):
    return ORDER.index(path.relative_to(ROOT / "gvgap_jax").parts[0].removesuffix(".py"))


def test_the_order_names_every_file():
    assert {place(path) for path in LIBRARY} == set(range(len(ORDER)))


@pytest.mark.parametrize("path", LIBRARY, ids=identify)
def test_a_file_of_the_library_imports_only_earlier_files(path):
    own = place(path)
    earlier = set(ORDER[:own]) | ({ORDER[own]} if ORDER[own] in ("sweep", "lm") else set())
    assert modules_of(imported(path.read_text())) <= earlier


def of_transformers(source):
    """Modules of ``gvgap_jax.lm`` among what a file imports."""
    return {name.split(".")[2] for name in imported(source) if name.startswith("gvgap_jax.lm.")}


@pytest.mark.parametrize("path", [path for path in LIBRARY if path.parent.name == "lm"], ids=identify)
def test_a_file_of_the_transformers_imports_only_earlier_files(path):
    own = path.stem
    assert of_transformers(path.read_text()) <= set(LM_ORDER[: LM_ORDER.index(own)] if own != "__init__" else ())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_depend_in_one_direction(package):
    assert files(package)
    for path in files(package):
        used = {name.split(".")[0] for name in imported(path.read_text())} & PROJECT
        assert used <= MAY_IMPORT[package], identify(path)


@pytest.mark.parametrize(
    "path", [path for path in LIBRARY if path.relative_to(ROOT).as_posix() not in MAY_TOUCH_FILES], ids=identify
)
def test_the_library_touches_no_files_elsewhere(path):
    assert not touches_files(path.read_text())


def test_a_forbidden_import_would_be_seen():
    source = (
        "def late():\n    from gvgap_jax import metrics\n    import theory.rates\n    import gvgap_jax.tree as tree"
    )
    assert imported(source) == {"gvgap_jax.metrics", "theory.rates", "gvgap_jax.tree"}
    assert modules_of(imported(source)) == {"metrics", "tree"}
    assert modules_of({"gvgap_jax.TokenTree", "numpy.random"}) == {"__init__"}


@pytest.mark.parametrize(
    "source", ["open('x')", "from pathlib import Path", "np.save('x', y)", "import os\nos.remove('x')", "print(1)"]
)
def test_a_touched_file_would_be_seen(source):
    assert touches_files(source)
