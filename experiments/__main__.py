"""Command line: ``python -m experiments list | run | status | figures | …``."""

import sys

from experiments.cli.main import main
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.runtime.devices import use_all_cores
from gvgap_jax.runtime.messages import print_any_character

if __name__ == "__main__":
    print_any_character()
    use_all_cores()
    keep_compiled_programs()
    main(sys.argv[1:])
