"""Benchmarks of a machine: points of scaling sweeps, and their report."""
