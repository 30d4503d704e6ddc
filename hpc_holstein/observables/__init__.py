"""Kinds of ``[[observable]]``, one a file: what a run records besides the orders of its lattice and the energies."""
