"""Texts that repeat one another, nearly or word for word: among the rows, against the held-out ones and against evaluation sets. Pure.

Used by standardize.
"""
