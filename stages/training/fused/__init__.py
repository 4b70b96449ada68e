"""The forward pass that trains faster than the model's own with the same mathematics: kernels, blocks, and the layers that they replace.

Used by train, for the models that `stages.training.fused_coverage` names.
"""
