"""The grand potential of a network up to the constant that forces do not tell: that of exact diagonalization.

The constant is one of each site, whatever the lattice, so it is found on small ones: windows of the training snapshots, closed
to tori, in the shifted field at ``mu = 0``.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice, State
from hpc_holstein.training._fields import FieldData
from hpc_holstein.training.dataset import Snapshots

_CELLS = {1: 64, 2: 16, 3: 6}  # of a window along each axis, by the dimension; even as the sublattices ask for
_WINDOWS = 16


def set_energy_constant(model: Any, snapshots: Snapshots, hamiltonian: Hamiltonian, lattice: Lattice, kT: float) -> float:
    """Set it in ``model``, of the kind that predicts the grand potential; returns the rms error of ``Omega`` per site [t_nn].

    A model that takes ``kT`` gets it at both ends and in the middle of its range.
    """
    dimension, basis = len(lattice.extent), len(lattice.basis)
    cells = min(max(_CELLS[dimension], 2 * model.reach + 2), *snapshots.extent)
    cells -= cells % 2 and cells > 2 * model.reach + 1
    index = np.linspace(0, len(snapshots) - 1, min(_WINDOWS, len(snapshots))).round().astype(int)
    data = FieldData(snapshots.select(index), model, hamiltonian.parameters["g"], torch.float64, torch.device("cpu"))
    parts = data.inputs[(slice(None), *[slice(cells)] * dimension)]
    state = State.at_rest(parts.reshape(len(parts), *[cells] * dimension, basis, 1).contiguous())
    small = import_module(f"hpc_holstein.lattice.{lattice.name}").build((cells,) * dimension)
    domain = CartesianDomain(small, SerialTransport())
    low, high = model.options.kT_range or (kT, kT)
    temperatures = (low, math.sqrt(low * high), high) if model.takes_kT else (kT,)
    errors = []
    for temperature in temperatures:
        ensemble = Ensemble("grand-canonical", kT=temperature)
        truth = exact.build(exact.Options(), hamiltonian, domain, ensemble)(state).grand_potential
        own = NeuralForces(model, hamiltonian, domain, ensemble)(state).grand_potential
        assert truth is not None
        assert own is not None
        errors.append((truth - own) / small.sites)
    model.add_constant([float(error.mean()) for error in errors])
    return math.sqrt(sum(float(error.var(unbiased=False)) for error in errors) / len(errors))
