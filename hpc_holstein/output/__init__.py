"""Observables, trajectory files and figures."""
