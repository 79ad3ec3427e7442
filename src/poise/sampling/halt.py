"""Stopping in the middle of an iteration: between two steps of the environments."""

from __future__ import annotations


class HaltedError(Exception):
    """Sampling or an evaluation stopped because it was asked to; nothing is wrong."""


class Halt:
    """A flag that whoever steps environments looks at before every step.

    Attributes:
        asked: whether to stop now.
    """

    asked = False
