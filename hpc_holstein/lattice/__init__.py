"""Lattices: geometry, bonds and symmetry; one file per lattice, resolved by name."""

from hpc_holstein.lattice._bravais import BravaisLattice

__all__ = ["BravaisLattice"]
