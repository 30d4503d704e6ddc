"""Structure factor, energies, temperature and electron number of a state, on any lattice.

    S(q) = |sum_i (n_i - mean n) exp(-i q.r_i)|^2 / N

Global fields are ``[*batch, *extent, basis]``, any batch of snapshots; *owned* ones ``[*batch, *cells, basis, components]``
come with their domain and are reduced over the ranks, the same on all of them.  Orders are in :mod:`output.order`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian, Lattice, State
from hpc_holstein.output.geometry import Array, reciprocal_vectors

RESOLUTION = 1e-6
"""Electrons per site: differences of densities below it are none.  Round-off of a density that was computed or stored in
float32 is a sixteenth of it, and the order in thermal states of kT > 0 is many thousand times as large."""


def require_periodic(lattice: Lattice, name: str) -> None:
    """Raise ConfigError if an axis is open, of which ``name`` knows nothing."""
    if not all(lattice.periodic):
        raise ConfigError(f"{name} needs periodic axes and periodic = {list(lattice.periodic)}: analyze a periodic lattice")


def wave_numbers(lattice: Lattice) -> list[NDArray[np.int64]]:
    """Whole numbers ``j`` along each axis of the wave vectors ``sum_a (j_a / extent_a) b_a`` of :func:`structure_factor`.

    In FFT order: one cell of the reciprocal lattice; with several sites in a cell, whose ``S(q)`` has a longer period, two
    along each axis, both ends included.
    """
    counts = [cells if len(lattice.basis) == 1 else 2 * cells + 1 for cells in lattice.extent]
    return [np.rint(np.fft.fftfreq(count) * count).astype(np.int64) for count in counts]


def wave_vectors(lattice: Lattice, numbers: Sequence[NDArray[np.int64]] | None = None) -> Array:
    """Wave vectors of :func:`structure_factor`, Cartesian [1/a], ``[*j, dimension]``."""
    grid = numbers or np.meshgrid(*wave_numbers(lattice), indexing="ij")
    turns = [j / cells for j, cells in zip(grid, lattice.extent, strict=True)]
    return np.asarray(np.stack(turns, axis=-1) @ reciprocal_vectors(lattice))


def structure_factor(density: Tensor, lattice: Lattice, numbers: Sequence[NDArray[np.int64]] | None = None) -> Tensor:
    """``S(q)`` [electrons^2/site] of a global density ``[*batch, *extent, basis]`` at :func:`wave_vectors`, ``[*batch, *j]``.

    ``numbers``: ``j`` of each axis, arrays of any one shape; all :func:`wave_numbers` where none are given.  Sum rule of
    lattices with one site a cell: the mean of ``S`` over all ``q`` is the variance of ``n``.  Raises ConfigError for an open
    axis.
    """
    require_periodic(lattice, "S(q)")
    axes = tuple(range(-len(lattice.extent) - 1, -1))
    amplitude = torch.fft.fftn(density - density.mean(dim=(*axes, -1), keepdim=True), dim=axes)
    grid = numbers or np.meshgrid(*wave_numbers(lattice), indexing="ij")
    cell = tuple(torch.from_numpy(j % cells) for j, cells in zip(grid, lattice.extent, strict=True))
    phase = np.exp(-1j * (wave_vectors(lattice, grid) @ np.asarray(lattice.basis).T))  # [*j, basis]
    return (amplitude[(..., *cell, slice(None))] * torch.from_numpy(phase)).sum(dim=-1).abs().square() / lattice.sites


def electron_number(density: Tensor, domain: Domain) -> Tensor:
    """Number of electrons on the whole lattice from the owned density ``[*batch, *cells, basis]``, ``[*batch]`` float64."""
    return total(density, domain, fields=1)


def kinetic_temperature(velocity: Tensor, mass: float, domain: Domain) -> Tensor:
    """``m <v^2>`` over all coordinates of the lattice, ``[*batch]`` float64: ``kT`` in equilibrium."""
    return mass * total(velocity.to(torch.float64).square(), domain) / (domain.lattice.sites * velocity.shape[-1])


def energies(state: State, mass: float, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> dict[str, Tensor]:
    """Energies per site of the whole lattice, each ``[*batch]`` float64, in units of ``t_nn``.

    ``kinetic``, ``classical`` (the potential ``V(q)``) and, where the force provider knows the grand potential, ``electronic``
    (``Omega + mu N_e`` canonical, ``Omega`` grand-canonical) and ``total``, which NVE dynamics conserves.
    """
    sites, halo = domain.lattice.sites, hamiltonian.reach
    q, velocity = state.q.to(torch.float64), state.velocity.to(torch.float64)
    potential = hamiltonian.energy(domain.pad(q, halo), halo)
    found = {
        "kinetic": 0.5 * mass * total(velocity.square(), domain) / sites,
        "classical": total(potential, domain, fields=0) / sites,
    }
    if state.forces is not None and state.forces.grand_potential is not None:
        electronic = state.forces.grand_potential.cpu() / sites
        if ensemble.kind == "canonical":
            electronic = electronic + ensemble.filling * hamiltonian.orbitals * state.forces.chemical_potential.cpu()
        found["electronic"] = electronic
        found["total"] = found["kinetic"] + found["classical"] + electronic
    return found


def total(owned: Tensor, domain: Domain, fields: int = 2) -> Tensor:
    """Sum over the cells of all ranks and over the last ``fields`` axes (basis, components), the same bits on any ranks.

    ``[*batch]`` on the CPU in double precision.
    """
    if owned.is_complex():
        return torch.complex(total(owned.real, domain, fields), total(owned.imag, domain, fields))
    batch = owned.shape[: owned.ndim - len(domain.lattice.extent) - fields]
    return global_sum(owned.reshape(math.prod(batch), -1), domain).reshape(batch)
