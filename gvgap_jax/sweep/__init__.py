"""Cells in, tidy Parquet records out: batches grouped by compiled program, run in chunks, stored one file a chunk."""

from gvgap_jax.sweep.run import Batch, Cells, run_batches
from gvgap_jax.sweep.store import load

__all__ = ["Batch", "Cells", "load", "run_batches"]
