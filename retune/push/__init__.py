"""`retune push`: publish what the gate let pass."""
