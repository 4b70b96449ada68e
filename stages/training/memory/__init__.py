"""What a training takes of a GPU's memory and time, and the plan that fits into it."""
