"""The stages of the pipeline: one file a stage, named as in dvc.yaml, and the packages that hold their words.

Used by dvc.yaml, which runs the stage files; by flows and retune.
"""
