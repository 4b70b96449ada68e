"""`retune accept`: an edit that changes no result is recorded as harmless."""
