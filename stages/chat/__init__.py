"""A dialogue -> token ids and labels: rendered by the chat template, the answers marked, encoded, and the marks proven.

Used by template.
"""
