"""Benchmarks of a machine: points of scaling sweeps, kernels and writers against what it can do, a model, a report."""
