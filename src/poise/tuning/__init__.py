"""Searches over many runs."""
