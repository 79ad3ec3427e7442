"""Configurations, presets and space layouts: everything that needs no torch, so that the command starts at once."""
