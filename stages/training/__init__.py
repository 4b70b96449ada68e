"""A training: the plan of its steps, the trainer that carries it out, its checkpoints, its logs and its outputs.

Used by train.
"""
