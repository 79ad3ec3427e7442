"""Stepping batches of environments: here, natively or in worker processes, whatever fails."""
