"""Finite groups of the lattice: product tables, real irreps, symmetry-adapted bases, Clebsch-Gordan tensors."""
