"""What the cache did: counters and the logger."""
