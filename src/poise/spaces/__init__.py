"""Layouts of spaces and masks of actions: pure descriptions, below all that plays or learns."""
