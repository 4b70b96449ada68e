"""`retune why`: what makes a stage run, to the file and the key."""
