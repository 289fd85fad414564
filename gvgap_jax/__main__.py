"""``python -m gvgap_jax`` says where the commands are: an installed wheel holds the library alone."""

import sys

WHERE = (
    "gvgap_jax is a library without commands of its own: the checks of the theorems and the experiments are in its "
    "repository and its source distribution; in that folder, `pip install -e . && python -m experiments quickstart` "
    "runs both."
)

if __name__ == "__main__":
    print(WHERE)
    sys.exit(2 if sys.argv[1:] else 0)  # whoever names a command here did not get it
