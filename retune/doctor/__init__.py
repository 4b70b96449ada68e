"""`retune doctor`: what this machine and this project have, and what is missing."""
