"""Benchmarks: fixed inputs, everything compared in one run, results as ratios."""
