"""Algorithms: one file each, the paper's loop and loss."""
