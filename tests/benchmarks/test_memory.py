"""The estimate of memory against what the compiler needs."""

import pytest

from experiments.benchmarks import memory


@pytest.mark.parametrize(
    ("size", "kind", "accumulate", "remat"),
    [((3, 128, 4), "sft", 1, False), ((4, 256, 4), "reward_model", 2, True), ((6, 512, 8), "dpo", 2, False)],
)
def test_the_estimate_is_what_the_compiler_needs(size, kind, accumulate, remat):
    row = memory.compiled(memory.work_of(size, kind, accumulate, remat))
    assert row.ratio == pytest.approx(1, abs=memory.TOLERANCE)
