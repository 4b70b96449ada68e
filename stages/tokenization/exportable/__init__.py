"""What of a tokenizer llama.cpp can carry: its splitting rule by llama.cpp's name. Pure: no model and no GGUF file is needed to ask.

Used by gguf.
"""
