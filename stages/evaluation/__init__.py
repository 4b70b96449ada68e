"""Answers of a model to held-out questions, greedily.

Used by evaluate.
"""
