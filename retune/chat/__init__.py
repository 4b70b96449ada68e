"""`retune chat`: talk to a file, or to the base with or without the adapter."""
