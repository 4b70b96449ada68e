"""The packages that shape results, pinned per kind of stage, as files that stages list in their deps."""
