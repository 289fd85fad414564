"""float64, no silent rank promotion and two CPU devices in every test; the tree and the task that most tests share.

Compiled programs are kept in the user's cache folder: the second run of the suite compiles next to nothing.
"""

import hypothesis
import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from gvgap_jax import TokenTree
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.sweep.compute import drop_programs
from gvgap_jax.tasks import make_task

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
keep_compiled_programs()

hypothesis.settings.register_profile("suite", deadline=None, max_examples=15, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


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
