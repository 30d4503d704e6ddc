"""Hamiltonians: the one-body matrix on a fixed pattern and the classical potential; one file per model, resolved by name."""
