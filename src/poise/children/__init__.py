"""Processes that Poise starts for itself: how they begin, and how they talk with whoever started
them."""
