"""A tokenizer's folder, read and completed, and the libraries that encode with it: the reference and the fast ones that prove equal to it.

Used by template.
"""
