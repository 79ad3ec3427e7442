"""`train.rl`."""
