"""One training by several processes: how they are started, what they tell each other, and how they end together.

Used by train, for every training: one process is a group of one.
"""
