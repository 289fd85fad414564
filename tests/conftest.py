"""float64, no silent rank promotion and two CPU devices in every test; the tree and the task that most tests share.

All compiled programs are kept in the user's cache folder, the smallest too: what one module or worker has compiled, the
others read, which is four times as fast, and the second run of the suite compiles next to nothing.
``pytest --commit HASH`` runs a fifth of the tests that are marked slow, and all others.
"""

import re

import hypothesis
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from gvgap_jax import TokenTree
from gvgap_jax.runtime import compile_cache
from gvgap_jax.sweep.compute import drop_programs
from gvgap_jax.tasks import make_task

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
compile_cache.WORTH_KEEPING = 0.0  # also when a test gives a command, which sets it again
compile_cache.keep_compiled_programs()

hypothesis.settings.register_profile("suite", deadline=None, max_examples=15, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

SHARES = 5


def pytest_addoption(parser):
    parser.addoption("--commit", metavar="HASH", help="run the fifth of the slow tests that a commit's hash chooses")


def pytest_collection_modifyitems(config, items):
    """Without ``--commit``, all tests run."""
    commit = config.getoption("commit")
    if commit is None:
        return
    if not re.fullmatch("[0-9a-f]{7,40}", commit):
        raise pytest.UsageError(f"--commit {commit}: expected a commit's hash, as git rev-parse HEAD prints it")
    groups = {item: group_of(item) for item in items if item.get_closest_marker("slow")}
    run = chosen(set(groups.values()), commit)
    left_out = {item for item, group in groups.items() if group not in run}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def group_of(item) -> str:
    """What a slow test is chosen with: others of the question that its marker or its parameter ``name`` names.

    Where there is neither, those of its file with its parameters. They share what a fixture makes or has compiled.
    """
    marker, call = item.get_closest_marker("slow"), getattr(item, "callspec", None)
    parameters = call.params if call else {}
    return next(iter(marker.args), parameters.get("name", f"{item.path.name} {call.id if call else ''}"))


def chosen(groups: set[str], commit: str) -> set[str]:
    """Each fifth group in the order of the alphabet, from the first, second … or fifth one on: as the hash says."""
    return set(sorted(groups)[int(commit, 16) % SHARES :: SHARES])


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_in_the_process():
    """A worker runs many files: programs take memory maps, of which a process has so many, and pyplot keeps figures."""
    yield
    drop_programs()
    plt.close("all")


@pytest.fixture(scope="session")
def tree():
    """3 prompts of one token, 9 responses of two tokens."""
    return TokenTree(vocabulary=3, horizon=2, prompt_length=1)


@pytest.fixture(scope="session")
def task(tree):
    """Nothing is uniform, and neither beta nor the temperature is 1: no factor can hide."""
    numbers = np.random.default_rng(0)
    probabilities = numbers.dirichlet(np.full(tree.leaves, 2.0), size=tree.prompts)
    return make_task(
        tree,
        reward=numbers.normal(size=(tree.prompts, tree.leaves)),
        reference=np.log(probabilities),
        prompt_probs=[0.5, 0.3, 0.2],
        beta=0.7,
        temperature=1.3,
    )
