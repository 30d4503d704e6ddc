"""Lattices: geometry, bonds and point group; one file per lattice, resolved by name."""
