"""Environments: making, batching, recording."""
