"""What of a tokenizer a GGUF file can carry, asked of its folder alone: its splitting rule by llama.cpp's name, and why it cannot be exported.

Used by gguf.
"""
