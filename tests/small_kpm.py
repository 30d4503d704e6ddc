"""Small systems for the parts of the KPM forces."""

from __future__ import annotations

import numpy as np
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square

KT = 0.1
CANONICAL = Ensemble("canonical", KT)


def fermi(x):
    return 1 / (1 + np.exp(np.clip(x / KT, -700, 700)))


def random_q(extent, spread=2.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64)


def system(extent, periodic=(True, True), **parameters):
    lattice = square.build(extent, periodic)
    return holstein.build(holstein.Options(**parameters), lattice), CartesianDomain(lattice, SerialTransport())


def dense(q, periodic=(True, True), t=1.0, g=3.5):
    """``H(q)`` by explicit loops over sites."""
    rows, columns = q.shape[:2]
    matrix = np.zeros((rows * columns,) * 2)
    for y in range(rows):
        for x in range(columns):
            i = y * columns + x
            matrix[i, i] += -g * float(q[y, x])
            for dy, dx in ((0, 1), (1, 0)):
                yy, xx = y + dy, x + dx
                if (yy < rows or periodic[0]) and (xx < columns or periodic[1]):
                    j = yy % rows * columns + xx % columns
                    matrix[i, j] -= t
                    matrix[j, i] -= t
    return matrix
