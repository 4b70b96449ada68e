"""A row of any chat dialect -> messages with roles, or the rule that sets it aside; each row accounted for.

Used by standardize.
"""
