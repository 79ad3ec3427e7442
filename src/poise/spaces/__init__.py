"""Layouts of spaces and the masks of actions: pure descriptions, below everything that plays or
learns."""
