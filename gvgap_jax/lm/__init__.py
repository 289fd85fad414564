"""Small transformers behind the same bundles of functions as classes on token trees.

In order: ``tasks`` too large to enumerate; ``shape``, ``transformer``, ``decode``, ``backend``, the networks and the
bundles; ``objectives``, ``data``, ``loop``, what a run minimises as pure functions; ``layouts``, ``programs``,
``checkpoints``, ``streams``, ``train``, runs on devices and in folders.
"""
