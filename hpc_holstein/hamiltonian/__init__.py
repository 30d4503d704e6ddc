"""Hamiltonians: the one-body matrix on a fixed pattern and the classical potential; one file per model, resolved by name."""

from hpc_holstein.hamiltonian._base import LatticeHamiltonian, displaced, ends, joined

__all__ = ["LatticeHamiltonian", "displaced", "ends", "joined"]
