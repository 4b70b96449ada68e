"""GGUF files that are proven: converted, quantized, described, and measured against the merged model.

Used by gguf.
"""
