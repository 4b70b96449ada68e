"""`retune origin`: what made a model's file, proven link by link: file, record, dvc.lock, git."""
