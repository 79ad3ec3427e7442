"""The mathematics: pure functions of tensors, time-major `[T, B]`, each with its equation and its
source."""
