"""`retune use`: a preset, your data or your model becomes the params.yaml of the next run."""
