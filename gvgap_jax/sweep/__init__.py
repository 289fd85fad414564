"""Grids in, tidy Parquet records out: cells grouped by compiled program, run in chunks, stored one file a chunk."""

from gvgap_jax.runtime.files import folder_at
from gvgap_jax.sweep.cells import Cell
from gvgap_jax.sweep.grid import Grid
from gvgap_jax.sweep.identity import plan_in
from gvgap_jax.sweep.plan import Plan, make_plan
from gvgap_jax.sweep.records import load
from gvgap_jax.sweep.run import run_plan
from gvgap_jax.sweep.store import open_folder

__all__ = ["Cell", "Grid", "Plan", "folder_at", "load", "make_plan", "open_folder", "plan_in", "run_plan"]
