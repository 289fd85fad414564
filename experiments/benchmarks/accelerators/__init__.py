"""``bench gpu`` and ``bench tpu``: a rented accelerator, row by row, each stored as soon as it is measured."""

from experiments.benchmarks.accelerators.run import main as main
