"""Programs that compiled code of group convolutions is made from: which numbers are added up and multiplied by which weights.

:mod:`hpc_holstein.network._transforms` makes them from the symmetry of a lattice.
"""

from __future__ import annotations

from typing import NamedTuple


class Combinations(NamedTuple):
    """Linear combinations of numbers ``x_0, x_1, ...``: each step appends ``x_i + factor x_j``; results are ``factor x_i``."""

    steps: tuple[tuple[int, int, float], ...]
    results: tuple[tuple[int, float], ...]


class Part(NamedTuple):
    """The work of a pass on inputs ``m`` of one kind and their images.

    inputs    number of images
    turn      inputs that are computed in turn, and how many channels these are ``apart``
    values    ``V_m U`` from them
    products  ``sums[s] += values[v] weights[w]``, as ``(v, w, s)``
    weights   numbers of ``U^+ C_m``
    """

    inputs: int
    turn: int
    apart: int
    values: Combinations
    products: tuple[tuple[int, int, int], ...]
    weights: int


class Program(NamedTuple):
    """All that compiled code is made from; stencils, channels and weights are data.

    order     of the point group
    together  copies that are computed at once
    exchanged with an odd part, of the exchange of particles and holes
    passes    one after the other, so that sums stay in registers: how many sums it has, and a part for each kind
    back      ``y_g`` of all elements from all sums
    """

    order: int
    together: int
    exchanged: bool
    passes: tuple[tuple[int, tuple[Part, ...]], ...]
    back: Combinations
