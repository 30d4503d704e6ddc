"""Options of networks of levels, apart from what computes, so that a configuration is checked without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LevelOptions:
    """Shape of a network of levels; each architecture has its own defaults.

    copies    copies of the 2|G|-dimensional regular representation in each hidden layer
    radii     stencil radius of each layer, the first one lifts; what one site sees is their sum
    levels    effective levels of the read-out
    scales    the field enters as ``tanh(g Q' / s)`` for these energies ``s``, in units of the hopping
    g, kT     coupling and electron temperature that the weights belong to
    kT_range  lowest and highest ``kT`` of a network that takes ``kT`` as an input; empty: ``kT`` is fixed
    """

    copies: int = 4
    radii: tuple[int, ...] = (2, 1, 1, 0)
    levels: int = 8
    scales: tuple[float, ...] = (16.0, 6.4, 2.5, 1.0, 0.4, 0.2)
    g: float = 3.5
    kT: float = 0.1
    kT_range: tuple[float, ...] = ()
