"""What a training takes of a GPU's memory and time, and the plan that fits into it. Pure, without torch, but for `fit`, `gpu` and `out_of_memory`.

Used by train, and by `retune plan` before it.
"""
