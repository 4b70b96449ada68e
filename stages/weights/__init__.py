"""Model weights tensor by tensor: safetensors files, NF4, the folding of a LoRA adapter, a forward pass one layer at a time.

Used by merge and gguf.
"""
