"""`retune verify`: everything hashed again, whatever sizes and times say, and lock, records, params and verdict held against each other."""
