"""One module a question, each with ``Config``, ``PRESETS``, ``MEANING``, ``batches``, ``run`` and ``findings``."""
