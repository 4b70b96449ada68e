"""`retune inspect`: what a dataset is, and what of it would be trained."""
