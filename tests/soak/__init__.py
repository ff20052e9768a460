"""Tests that run long, by `make soak`."""
