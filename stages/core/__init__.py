"""A stage as a command: its flags, params, inputs, errors and files, and the record of what it did.

Every stage stands on it, so an edit here runs all of them.
"""
