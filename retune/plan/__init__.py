"""`retune plan`: memory, steps, time and disk of a training, before it."""
