"""Small transformers behind the same bundles of functions as classes on token trees.

In order: tasks too large to enumerate, the decoder, sampling, the bundles, training, checkpoints.
"""
