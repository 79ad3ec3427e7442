"""Configurations and presets: all that needs no torch, so that the command starts at once."""
