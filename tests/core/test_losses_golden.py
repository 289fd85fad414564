"""Losses and their gradients against numbers that PyTorch computed in float64, each as its paper writes it.

``python -m tests.test_losses_golden`` computes them anew; where PyTorch is installed they are compared with it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvgap_jax import losses

GOLDEN = Path(__file__).parent / "losses_golden.json"
OURS = {
    "bradley_terry": lambda chosen, rejected, pairs: losses.bradley_terry(
        (chosen - rejected) / pairs["temperature"], pairs["weight"]
    ),
    "dpo": lambda chosen, rejected, pairs: losses.dpo(
        chosen, rejected, pairs["reference_chosen"] - pairs["reference_rejected"], pairs["beta"], pairs["weight"]
    ),
    # Ours is beta^2 times the published loss, so that its margin is in units of reward.
    "ipo": lambda chosen, rejected, pairs: (
        losses.ipo(
            losses.local_margin(
                chosen, rejected, pairs["reference_chosen"] - pairs["reference_rejected"], pairs["beta"]
            ),
            pairs["weight"],
        )
        / pairs["beta"] ** 2
    ),
}


def by_torch():
    """The inputs, and each loss with its gradients in what the chosen and the rejected response get."""
    import torch
    from torch.nn.functional import logsigmoid

    pairs = {
        "chosen": [-3.2, -1.7, -8.25, -0.4, -40.0, -2.0],
        "rejected": [-2.9, -4.1, -8.25, -0.9, -1.0, -90.0],
        "reference_chosen": [-2.5, -2.2, -7.0, -1.3, -3.0, -4.0],
        "reference_rejected": [-2.75, -3.0, -7.5, -0.2, -2.0, -3.5],
        "weight": [1.0, 2.0, 0.5, 0.0, 1.0, 0.25],
        "beta": 0.3,
        "temperature": 1.7,
    }

    def read(name):
        return torch.tensor(pairs[name], dtype=torch.float64)

    def bradley_terry(chosen, rejected):
        return -logsigmoid((chosen - rejected) / pairs["temperature"])

    def log_ratio(chosen, rejected):
        return (chosen - read("reference_chosen")) - (rejected - read("reference_rejected"))

    def dpo(chosen, rejected):  # arXiv 2305.18290, eq. 7
        return -logsigmoid(pairs["beta"] * log_ratio(chosen, rejected))

    def ipo(chosen, rejected):  # arXiv 2310.12036, eq. 17
        return (log_ratio(chosen, rejected) - 1 / (2 * pairs["beta"])) ** 2

    found = {}
    for loss in (bradley_terry, dpo, ipo):
        chosen, rejected = (read(name).requires_grad_() for name in ("chosen", "rejected"))
        value = (read("weight") * loss(chosen, rejected)).sum() / read("weight").sum()
        gradients = torch.autograd.grad(value, (chosen, rejected))
        found[loss.__name__] = {"value": value.item(), "gradients": [gradient.tolist() for gradient in gradients]}
    return {"pairs": pairs, "losses": found}


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", OURS)
def test_values_and_gradients_are_those_of_pytorch(golden, name):
    pairs = {key: jnp.asarray(values) for key, values in golden["pairs"].items()}
    value, gradients = jax.value_and_grad(OURS[name], argnums=(0, 1))(pairs["chosen"], pairs["rejected"], pairs)
    expected = golden["losses"][name]
    np.testing.assert_allclose(value, expected["value"], rtol=1e-13)
    np.testing.assert_allclose(gradients, expected["gradients"], rtol=1e-12, atol=1e-16)


def test_the_committed_numbers_are_those_of_the_pytorch_that_is_here(golden):
    pytest.importorskip("torch")
    found = by_torch()
    assert found["pairs"] == golden["pairs"]
    for name, expected in golden["losses"].items():
        np.testing.assert_allclose(found["losses"][name]["value"], expected["value"], rtol=1e-13)
        np.testing.assert_allclose(found["losses"][name]["gradients"], expected["gradients"], rtol=1e-12, atol=1e-16)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(by_torch()) + "\n")
