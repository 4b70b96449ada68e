"""`retune restore`: the last good files of a stage, out of DVC's cache."""
