"""What only shows: no stage depends on these files (tests/test_keys.py keeps the list short), so nothing here may shape an output.

Used by any stage.
"""
