"""The trainer: iterate, measure, call back, checkpoint, stop; and evaluation."""
