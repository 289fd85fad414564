"""Preference fine-tuning of a language model, as the paper did it: SFT, reward model, DPO, online DPO, judges.

``python -m experiments run tldr`` goes through the stages. Each is stored below one folder and is not done twice; a
stage that was killed goes on from its last checkpoint.
"""
