"""What crosses each arrow between stages: one small file an artifact.

Used by the stages that write or read the artifact: dvc.yaml lists the files one by one, they are the arrows.
"""
