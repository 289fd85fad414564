"""What each arm of a question trains on transformers: policies that are networks, and which reward models.

Fits are those of ``wiring``, and networks are small ones that stand for transformers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import algorithms
from tests.questions.wiring import NETWORKS, cells_of, wired

pytestmark = pytest.mark.slow
POLICY, SIMPLE, RICH = "policy", "simple reward model", "reward model of the policy's backbone"
TRAINED = {  # by question: the label or name of each arm, and what its fits train, in order
    "rival_coverage": {"DPO": [POLICY], "RLHF": [SIMPLE, POLICY], "RLHF, same backbone": [RICH, POLICY]},
    "rival_overoptimisation": {"gold": [], "DPO": [POLICY], "RLHF": [SIMPLE], "RLHF, same backbone": [RICH]},
    "rival_sparse": {
        "DPO": [POLICY],
        "dense": [SIMPLE, POLICY],
        "known": [SIMPLE, POLICY],
        "sparse": [SIMPLE, SIMPLE, SIMPLE, SIMPLE, POLICY],  # all three interactions; then one, two and three of them
        "backbone": [RICH, POLICY],
        "d_eff": [],
    },
}


def shapes(params):
    return jax.tree.map(np.shape, params)


def trained(tree, params) -> str:
    """Which class these are parameters of."""
    key = jax.random.key(0)
    if shapes(params) == shapes(NETWORKS.policy(tree, None).init(key)):
        return POLICY
    return RICH if shapes(params) == shapes(NETWORKS.verifier(tree).init(key)) else SIMPLE


def arm_of(cell) -> str:
    program = cell.program._asdict()
    given = program.get("method", program.get("arm", program.get("fit")))
    return given if given == "d_eff" else cell.labels.get("arm", given)


@pytest.mark.parametrize("name", TRAINED)
def test_every_arm_trains_its_own_classes_by_the_backends_settings(name):
    made = {}
    for cell in cells_of(name, "transformer"):
        fits = wired(name, cell, "transformer").fits
        made[arm_of(cell)] = [trained(cell.program.tree, fit["params"]) for fit in fits]
        assert {fit["settings"].solver for fit in fits} <= {"adam"}
    assert made == TRAINED[name]


@pytest.mark.parametrize("arm", ["dense", "sparse", "backbone"])
def test_a_row_whose_second_stage_is_not_solved_is_not_converged(arm):
    (cell,) = (cell for cell in cells_of("rival_sparse", "transformer") if cell.labels.get("arm") == arm)
    stage = algorithms.second_stage

    def unsolved(*given):
        return stage(*given)._replace(converged=jnp.array(False))

    assert wired("rival_sparse", cell, "transformer").records["converged"]
    patch = (algorithms, "second_stage", unsolved)
    assert not wired("rival_sparse", cell, "transformer", patches=[patch]).records["converged"]
