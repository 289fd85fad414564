"""Transformers behind the same bundles of functions as classes on token trees, from toys to real models.

In order: ``tasks`` too large to enumerate; ``shape``, ``pythia``, ``transformer``, ``decode``, ``backend``, networks
and bundles; ``objectives``, ``data``, ``loop``, what a run minimises as pure functions; ``chips``, ``footprints``,
``hours``, ``resources``, what it will need; ``layouts``, how it lies on devices; ``architectures``, ``tensors``,
``weights``, ``exports``, checkpoints of Hugging Face; ``text``, ``formats``, ``records``, ``corpora``, ``encoded``,
preference data; ``judges``, ``endpoint``, who decides what is better; ``processes``, ``programs``, ``checkpoints``,
``streams``, ``train``, runs on devices, in processes and in folders.
"""
