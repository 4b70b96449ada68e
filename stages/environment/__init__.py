"""The packages that shape results, pinned for each kind of stage, as files that stages list in their deps.

Used by dvc.yaml (the .txt files), `make lock` (`pins`) and `check` (`active`).
"""
