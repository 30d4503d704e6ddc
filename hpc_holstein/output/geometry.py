"""Cartesian places of sites, displacements and wave vectors on any lattice, in units of the distance of nearest neighbours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from hpc_holstein.interfaces import Lattice

Array = NDArray[np.float64]
Box = Sequence[tuple[int, int]]
"""``[start, stop)`` of the numbers along each axis."""

_PIXELS = 800  # of the longer side of a picture


def positions(lattice: Lattice) -> Array:
    """Places of all sites, ``[*cells, basis, dimension]`` [a], Cartesian ``(x, y, z)``."""
    cells = np.moveaxis(np.indices(lattice.extent), 0, -1) @ np.asarray(lattice.vectors)
    return np.asarray(cells[..., None, :] + np.asarray(lattice.basis))


def reciprocal_vectors(lattice: Lattice) -> Array:
    """Reciprocal lattice vectors, one a row, ``b_i . a_j = 2 pi delta_ij``."""
    return 2 * math.pi * np.linalg.inv(np.asarray(lattice.vectors)).T


def box_sides(lattice: Lattice) -> Array:
    """Sides of the periodic box, one a row."""
    return np.asarray(lattice.vectors) * np.asarray(lattice.extent)[:, None]


def inner_radius(sides: Array) -> float:
    """Half of the shortest vector of the lattice with these ``sides``: displacements within it have one shortest image."""
    reduced = _reduced(sides, [True] * len(sides))[1]
    steps = itertools.product((-1, 0, 1), repeat=len(sides))
    return 0.5 * min(float(np.linalg.norm(np.asarray(step) @ reduced)) for step in steps if any(step))


def shortest_images(
    extent: Sequence[int],
    sides: Array,
    box: Box | None = None,
    shift: Sequence[float] = (),
    periodic: Sequence[bool] = (),
) -> Tensor:
    """Shortest periodic images of ``sum_a (j_a / extent_a) side_a + shift``, in FFT order: ``[dimension, *box]``, float64.

    For all ``j`` of ``extent``, or those of a ``box``.  ``periodic``: sides that lead to images; all do if none are told.
    """
    closed = list(periodic) or [True] * len(sides)
    ranges = box or [(0, cells) for cells in extent]
    fractions = [
        torch.fft.fftfreq(cells, dtype=torch.float64)[start:stop] for cells, (start, stop) in zip(extent, ranges, strict=True)
    ]
    grid = list(torch.meshgrid(*fractions, indexing="ij"))
    change, reduced = _reduced(sides, closed)
    offset = np.asarray(shift or [0.0] * sides.shape[1]) @ np.linalg.pinv(reduced)
    if (change != np.eye(len(change))).any() or any(shift):
        grid = [sum((f * c for f, c in zip(grid, column, strict=True)), o) for column, o in zip(change.T, offset, strict=True)]
        grid = [fraction - fraction.round() if p else fraction for fraction, p in zip(grid, closed, strict=True)]
    best, shortest = torch.stack([torch.zeros_like(grid[0])] * sides.shape[1]), torch.full_like(grid[0], math.inf)
    for image in itertools.product(*((-1.0, 0.0, 1.0) if p else (0.0,) for p in closed)):
        along = torch.stack([sum((f + i) * s for f, i, s in zip(grid, image, c, strict=True)) for c in reduced.T])
        square = along.square().sum(dim=0)
        best, shortest = torch.where(square < shortest, along, best), torch.minimum(square, shortest)
    return best


def lengths_of(vectors: Tensor) -> Tensor:
    """Lengths of ``vectors [dimension, ...]``."""
    return vectors.square().sum(dim=0).sqrt()


class Raster:
    """Pixels of a picture of a lattice, each of which shows the site next to it: of a plane, a chain, or a cut through a body.

    A body is cut in the middle of its first array axis.  ``box``: left, right, bottom and top [a].
    """

    def __init__(self, lattice: Lattice) -> None:
        planes = lattice.extent[:-2]
        vectors, places = np.asarray(lattice.vectors)[-2:, :2], positions(lattice)[..., :2]
        number = np.arange(lattice.sites).reshape(places.shape[:-1])
        for cells in planes:
            number, places = number[cells // 2], places[cells // 2][..., :2]
        if len(vectors) == 1:  # a chain is a plane of one row
            vectors, places = (
                np.array([[0.0, 1.0], [vectors[0, 0], 0.0]]),
                np.stack([places[..., 0], 0 * places[..., 0]], axis=-1),
            )
        extent = np.array([*(1,) * (2 - len(lattice.extent)), *lattice.extent[-2:]])
        corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in extent)))) @ vectors
        centre = places.reshape(-1, len(lattice.basis), 2)[0].mean(axis=0)
        low, high = corners.min(axis=0) + centre, corners.max(axis=0) + centre
        width, height = np.maximum(np.rint(_PIXELS * (high - low) / (high - low).max()), 1).astype(int)
        x, y = (a + (np.arange(n) + 0.5) * (b - a) / n for a, b, n in zip(low, high, (width, height), strict=True))
        pixels = np.stack(np.meshgrid(x, y), axis=-1)
        cell = (pixels - centre) @ np.linalg.inv(vectors)
        self._outside = ((cell < -0.5) | (cell >= extent - 0.5)).any(axis=-1)
        self._number = number.reshape(-1)[cKDTree(places.reshape(-1, 2)).query(pixels)[1]]
        self._axes = len(lattice.extent) + 1
        self.box = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))

    def picture(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values [*cells, basis, ...]`` of the pixels ``[row, column, ...]``, the first row below; 0 outside."""
        shown = values.reshape(-1, *values.shape[self._axes :])[self._number]
        shown[self._outside] = 0
        return shown


def _reduced(sides: Array, periodic: Sequence[bool]) -> tuple[Array, Array]:
    """Short sides of the same lattice, and the numbers of the old fractions in the new ones: ``f_new = f_old @ change``.

    Those that are not periodic stand at right angles to the others.
    """
    short, change = sides.copy(), np.eye(len(sides))
    closed = np.flatnonzero(periodic)
    moved = True
    while moved:
        moved = False
        for i, j in itertools.permutations(closed, 2):
            square = short[j] @ short[j]
            turns = round(short[i] @ short[j] / square) if square else 0
            if turns:
                short[i] -= turns * short[j]
                change[:, j] += turns * change[:, i]
                moved = True
    for i in np.flatnonzero(~np.asarray(periodic)):
        along = short[i] @ np.linalg.pinv(short[closed]) if len(closed) else np.empty(0)
        short[i] -= along @ short[closed]
        change[:, closed] += np.outer(change[:, i], along)
    return change, short
