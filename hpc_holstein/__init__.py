"""Adiabatic dynamics of the Holstein model on large lattices with equivariant neural network forces."""

__version__ = "0.1.0"
