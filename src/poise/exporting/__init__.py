"""Policies without Poise: as ONNX, as a program of PyTorch's, in NumPy alone, and in C."""
