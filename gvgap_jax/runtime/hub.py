"""The hub of Hugging Face: files of its repositories, fetched once and kept by its own package."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from gvgap_jax.runtime.messages import reason
from gvgap_jax.runtime.packages import optional


def fetch(name: str, files: Sequence[str], revision: str | None = None) -> Path:
    """The folder with those files of a repository whose names match these patterns.

    ``revision`` is a branch, tag or commit.

    Raises:
      ValueError: there is no such repository or revision, it cannot be reached, or huggingface_hub is not installed.
    """
    hub = optional("huggingface_hub")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # of the network, of the hub, or of its cache
        raise ValueError(
            f"{name} is no local folder, and could not be fetched from Hugging Face's hub ({reason(error)}); check the "
            "name, the revision, the network, or `hf auth login` where it is gated."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without a line for every request that the hub's package tries again; what fails in the end is still raised."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
