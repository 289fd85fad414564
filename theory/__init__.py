"""The statements of "All Roads Lead to Likelihood" (arXiv 2503.01067) as programs: ``python -m theory`` checks each.

Every statement has one function that returns both sides of its claim on a random instance, and at
least one negative control with a premise dropped, where the same sides must come apart.
"""
