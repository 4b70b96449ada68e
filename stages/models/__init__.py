"""What a base model is: its config, its dtype, its size, the device it runs on.

Used by train, evaluate, merge and gguf.
"""
