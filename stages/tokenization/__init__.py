"""Tokenizers: opened for encoding (`loading`), and asked whether llama.cpp can carry them (`exportable`)."""
