"""Command line: ``python -m experiments list | run | status | figures | …``."""

import sys

from experiments.cli.main import main
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.runtime.devices import use_all_cores

if __name__ == "__main__":
    use_all_cores()
    keep_compiled_programs()
    main(sys.argv[1:])
