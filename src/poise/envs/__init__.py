"""Making, wrapping and recording environments."""
