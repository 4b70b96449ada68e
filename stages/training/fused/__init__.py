"""The forward pass that trains faster than the model's own with the same mathematics: kernels, blocks, and which models it covers."""
