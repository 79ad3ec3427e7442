"""Configurations and presets: everything that needs no torch, so that the command starts at once."""
