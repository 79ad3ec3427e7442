"""The mathematics: functions of tensors, time-major `[T, B]`, with their equations and sources."""
