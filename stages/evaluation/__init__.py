"""What a model makes of held-out rows: losses, first choices, greedy answers.

Used by evaluate.
"""
