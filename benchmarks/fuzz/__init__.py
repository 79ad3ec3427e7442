"""Fuzzers: random and damaged input, of which each case must end well or with one sentence.

python -m benchmarks.fuzz files --cases 1000 --seed 7
"""
