"""Tokenizers: opened for encoding (`loading`), and asked whether llama.cpp can carry them (`exportable`).

Used by template (`loading`) and gguf (`exportable`).
"""
