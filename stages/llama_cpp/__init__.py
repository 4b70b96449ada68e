"""llama.cpp by its own two wheels, without a compiler: its GGUF files, its quantizer, its runtime and its programs; nothing of ours.

Used by gguf, and by `retune chat`, `serve` and `origin`.
"""
