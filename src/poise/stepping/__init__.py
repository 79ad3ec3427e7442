"""Stepping environments in batches: here, natively or in worker processes, whatever fails."""
