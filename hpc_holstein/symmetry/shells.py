"""Neighbour shells of a Bravais lattice from its Gram matrix."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_holstein.errors import ConfigError

_SAME_RADIUS = 1e-9  # relative; squared lengths of one shell of an irrational lattice differ by round-off only


def neighbour_shells(gram: ArrayLike, radius_squared: float) -> tuple[NDArray[np.int64], ...]:
    """All lattice offsets within a radius, one array ``[sites, d]`` per distance, from the origin outwards.

    ``|r|^2 = n^T G n`` for the integer offset ``n``, with ``G_ij = a_i . a_j`` the Gram matrix of the primitive vectors
    (units of the lattice constant squared).  Offsets of one shell are in lexicographic order; shell 0 is the site itself.
    Raises ConfigError if ``G`` is not symmetric and positive definite or the radius is negative.
    """
    metric = np.asarray(gram, dtype=float)
    if metric.ndim != 2 or not np.array_equal(metric, metric.T) or np.linalg.eigvalsh(metric).min() <= 0:
        raise ConfigError(f"the Gram matrix {metric.tolist()} is not symmetric and positive definite: give a_i . a_j")
    if not 0 <= radius_squared < np.inf:
        raise ConfigError(f"the squared radius {radius_squared} of the neighbour shells is not valid: give a number >= 0")
    cutoff = radius_squared * (1 + _SAME_RADIUS) + _SAME_RADIUS
    bounds = np.floor(np.sqrt(cutoff * np.diag(np.linalg.inv(metric)))).astype(int)  # max |n_i| on the ellipsoid
    box = np.array(list(itertools.product(*(range(-b, b + 1) for b in bounds))), dtype=np.int64)
    squared = np.einsum("ni,ij,nj->n", box, metric, box)
    inside = squared <= cutoff
    box, squared = box[inside], squared[inside]
    order = np.argsort(squared, kind="stable")
    starts = np.flatnonzero(np.diff(squared[order]) > _SAME_RADIUS * (1 + squared[order][1:])) + 1
    return tuple(box[np.sort(members)] for members in np.split(order, starts))
