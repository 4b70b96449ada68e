"""One training by several processes: how they are started, what they tell each other, and how they end together."""
