"""The stages of the pipeline: one file per stage, named as in dvc.yaml."""
