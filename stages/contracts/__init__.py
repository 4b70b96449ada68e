"""What crosses each arrow between stages: one small file per artifact."""
