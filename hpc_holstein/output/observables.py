"""Observables of the charge density wave: local order, structure factor, correlations, domain length, energies.

Two sorts of functions.  *Global fields* ``[*batch, *extent]`` (torch or NumPy, one site a cell, any batch of snapshots)
come with their lattice: maps and spectra of stored trajectories.  *Owned tiles* ``[*batch, *cells, basis, components]``
come with their domain: scalars, of a running simulation or of a stored state, reduced over the ranks, the same on all of
them.  :class:`output.order.OrderScalars` puts those of the order together.

    phi_i = (n_i - mean of n over nn(i)) exp(i K.r_i),   S(q) = |n_q|^2 / N,   C(r) = <phi_i^* phi_{i+r}>

Sources: arXiv 2601.04104 for ``phi``, arXiv 2303.03493 for ``C(r)`` and the domain length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.partition import shown
from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Bond, Domain, Ensemble, Hamiltonian, Lattice, State

Field = Tensor | NDArray[np.floating]
Array = NDArray[np.float64]
Vectors = tuple[tuple[float, ...], ...]

RESOLUTION = 1e-6
"""Electrons per site: differences of densities below it are none.  Round-off of a density that was computed or stored in
float32 is a sixteenth of it, and the order in thermal states of kT > 0 is many thousand times as large."""

_PHASE_ERROR = 1e-9  # radians


def require_commensurate(lattice: Lattice) -> None:
    """Raise ConfigError where the order ``exp(i K.r)`` does not close on a periodic axis: a checkerboard of odd extent."""
    for cells, periodic, phase in zip(lattice.extent, lattice.periodic, lattice.ordering_vector, strict=True):
        turns = cells * phase / (2 * math.pi)
        if periodic and abs(turns - round(turns)) > _PHASE_ERROR:
            period = round(2 * math.pi / phase)
            raise ConfigError(
                f"lattice extent {shown(lattice.extent)} does not hold an order of period {period}: use "
                f"{_nearest_extents(lattice, period)}, a multiple of {period} cells along each periodic axis"
            )


def require_periodic(lattice: Lattice, name: str) -> None:
    """Raise ConfigError if an axis is open, of which ``name`` knows nothing."""
    if not all(lattice.periodic):
        raise ConfigError(f"{name} needs periodic axes and periodic = {list(lattice.periodic)}: analyze a periodic lattice")


def local_order(field: Field, lattice: Lattice) -> Tensor:
    """Local CDW order ``phi`` of a global field, ``n`` or ``Q``; ``[*batch, *extent]``, real for a checkerboard.

    Raises ConfigError for a periodic axis that the order does not fit.
    """
    field = torch.as_tensor(field)
    domain = CartesianDomain(lattice, SerialTransport(), device=field.device)
    return owned_local_order(field.unsqueeze(-1), domain)[..., 0]


def structure_factor(field: Field, lattice: Lattice) -> Tensor:
    """``S(q) = |sum_i (n_i - mean n) exp(-i q.r_i)|^2 / N``, ``[*batch, *extent]``.

    On ``q = 2 pi (j_y / Y, j_x / X)`` in FFT order.  Sum rule: the mean of ``S`` over ``q`` is the variance of ``n``.
    Raises ConfigError for an open axis.
    """
    require_periodic(lattice, "S(q)")
    field, axes = torch.as_tensor(field), _cell_axes(lattice)
    amplitude = torch.fft.fftn(field - field.mean(dim=axes, keepdim=True), dim=axes)
    return amplitude.abs().square() / lattice.sites


def first_crossing(radii: Tensor, averages: Tensor, level: float) -> Tensor:
    """Radius where a radial average first falls to ``level * C(0)``, interpolated linearly, ``[*batch]``.

    ``level = 0`` gives the first zero and 0.5 the half height; infinite if there is no crossing within half of the box.
    """
    height = averages - level * averages[..., :1]
    below = height <= 0
    last = torch.argmax(below.to(torch.int8), dim=-1, keepdim=True).clamp(min=1)
    before, after = height.gather(-1, last - 1), height.gather(-1, last)
    inner, outer = radii[last - 1], radii[last]
    crossing = inner + (outer - inner) * before / (before - after)
    return torch.where(below.any(dim=-1), crossing[..., 0], torch.inf)


def owned_difference(density: Tensor, domain: Domain) -> Tensor:
    """``n_i`` minus its mean over the nearest neighbours, of an owned density ``[*batch, *cells, basis]``, of the same shape.

    Neighbours come from other ranks; those beyond an open edge do not count in the mean.
    """
    ghosted, there = domain.pad(density.unsqueeze(-1), 1), _existing_cells(domain, density)
    total, count = torch.zeros_like(density), there.new_zeros((*_owned_of(there).shape[:-2], density.shape[-1]))
    for bond in domain.lattice.bonds(1):
        back = tuple(-step for step in bond.offset)
        for site, neighbour, offset in ((bond.source, bond.target, bond.offset), (bond.target, bond.source, back)):
            total[..., site] += _displaced(ghosted, offset)[..., neighbour, 0]
            count[..., site] += _displaced(there, offset)[..., 0, 0]
    return density - total / count.clamp(min=1)


def owned_local_order(density: Tensor, domain: Domain) -> Tensor:
    """Local CDW order of an owned density ``[*batch, *cells, basis]``: :func:`owned_difference` times ``exp(i K.r_i)``.

    Raises ConfigError for a periodic axis that the order does not fit.
    """
    return ordered(owned_difference(density, domain), domain)


def ordered(difference: Tensor, domain: Domain) -> Tensor:
    """The local order of an :func:`owned_difference`; raises as :func:`owned_local_order`."""
    require_commensurate(domain.lattice)
    return difference * _phase(domain, difference).unsqueeze(-1)


def owned_order_parameter(phi: Tensor, domain: Domain) -> Tensor:
    """``|mean phi|`` over the whole lattice from the owned order ``[*batch, *cells, basis]``, ``[*batch]``."""
    return (_sum(phi, domain, fields=1) / domain.lattice.sites).abs()


def owned_wall_density(difference: Tensor, domain: Domain) -> Tensor:
    """Part of the nearest-neighbour bonds whose ends have opposite order, ``Re phi_i^* phi_j < 0``, ``[*batch]``.

    ``difference``: as :func:`owned_difference` gives it.  Of the phases of ``phi`` those along a bond alone matter, so a
    lattice of any extent has walls.  0 in one domain, about 1/2 without any order.  A site whose difference is below
    :data:`RESOLUTION` has no sign and no walls: there are none where the density is uniform.
    """
    ghosted, there = domain.pad(difference.unsqueeze(-1), 1), _existing_cells(domain, difference)
    walls, bonds = torch.zeros_like(difference[..., 0]), torch.zeros_like(_owned_of(there)[..., 0, 0])
    signed = difference.abs() > RESOLUTION
    for bond in _bonds_to_others(domain.lattice):
        ahead = _displaced(ghosted, bond.offset)[..., bond.target, 0]
        along = math.cos(sum(k * step for k, step in zip(domain.lattice.ordering_vector, bond.offset, strict=True)))
        opposite = along * difference[..., bond.source] * ahead < 0
        walls += opposite & signed[..., bond.source] & (ahead.abs() > RESOLUTION)
        bonds += _displaced(there, bond.offset)[..., 0, 0]
    return _sum(walls, domain, fields=0) / _sum(bonds.expand(domain.local_extent), domain, fields=0)


def _bonds_to_others(lattice: Lattice) -> list[Bond]:
    """Bonds of the first shell without those from a site to itself, around an axis of one cell."""
    closed = [n if periodic else math.inf for n, periodic in zip(lattice.extent, lattice.periodic, strict=True)]
    around = [all(step % n == 0 for step, n in zip(bond.offset, closed, strict=True)) for bond in lattice.bonds(1)]
    return [b for b, itself in zip(lattice.bonds(1), around, strict=True) if not (itself and b.source == b.target)]


def electron_number(density: Tensor, domain: Domain) -> Tensor:
    """Number of electrons on the whole lattice from the owned density ``[*batch, *cells, basis]``, ``[*batch]`` float64."""
    return _sum(density, domain, fields=1)


def kinetic_temperature(velocity: Tensor, mass: float, domain: Domain) -> Tensor:
    """``m <v^2>`` over all coordinates of the lattice, ``[*batch]`` float64: ``kT`` in equilibrium."""
    return mass * _sum(velocity.to(torch.float64).square(), domain) / (domain.lattice.sites * velocity.shape[-1])


def energies(state: State, mass: float, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> dict[str, Tensor]:
    """Energies per site of the whole lattice, each ``[*batch]`` float64, in units of ``t_nn``.

    ``kinetic``, ``classical`` (the potential ``V(q)``) and, where the force provider knows the grand potential, ``electronic``
    (``Omega + mu N_e`` canonical, ``Omega`` grand-canonical) and ``total``, which NVE dynamics conserves.
    """
    sites, halo = domain.lattice.sites, hamiltonian.reach
    q, velocity = state.q.to(torch.float64), state.velocity.to(torch.float64)
    potential = hamiltonian.energy(domain.pad(q, halo), halo)
    found = {
        "kinetic": 0.5 * mass * _sum(velocity.square(), domain) / sites,
        "classical": _sum(potential, domain, fields=0) / sites,
    }
    if state.forces is not None and state.forces.grand_potential is not None:
        electronic = state.forces.grand_potential.cpu() / sites
        if ensemble.kind == "canonical":
            electronic = electronic + ensemble.filling * state.forces.chemical_potential.cpu()
        found["electronic"] = electronic
        found["total"] = found["kinetic"] + found["classical"] + electronic
    return found


def _sum(owned: Tensor, domain: Domain, fields: int = 2) -> Tensor:
    """Sum over the cells of all ranks and over the last ``fields`` axes (basis, components), the same bits on any ranks.

    ``[*batch]`` on the CPU in double precision.
    """
    if owned.is_complex():
        return torch.complex(_sum(owned.real, domain, fields), _sum(owned.imag, domain, fields))
    batch = owned.shape[: owned.ndim - len(domain.lattice.extent) - fields]
    return global_sum(owned.reshape(math.prod(batch), -1), domain).reshape(batch)


def has_real_order(lattice: Lattice) -> bool:
    """Whether ``exp(i K.r)`` is a sign on every cell: every component of ``K`` is 0 or pi."""
    turns = torch.tensor(lattice.ordering_vector, dtype=torch.float64) / math.pi
    return bool((turns.round() - turns).abs().max() < _PHASE_ERROR)


def _phase(domain: Domain, like: Tensor) -> Tensor:
    """``exp(i K.r)`` of the owned cells, ``[*cells]``; the signs +-1 where it is real."""
    real, phase = has_real_order(domain.lattice), torch.ones(())
    for k, (start, stop) in zip(domain.lattice.ordering_vector, domain.owned, strict=True):
        angle = k * torch.arange(start, stop, dtype=torch.float64)
        factors = torch.cos(angle).round() if real else torch.polar(torch.ones_like(angle), angle)
        phase = phase.unsqueeze(-1) * factors.to(device=like.device, dtype=like.dtype if real else like.dtype.to_complex())
    return phase


def _existing_cells(domain: Domain, like: Tensor) -> Tensor:
    """1 on every cell of the lattice and 0 beyond its open edges, with a halo of 1: ``[*ghosted cells, 1, 1]``.

    Without edges, of one cell only: all are alike.
    """
    if all(domain.lattice.periodic):
        return like.new_ones((*(3 for _ in domain.local_extent), 1, 1))
    return domain.pad(like.new_ones((*domain.local_extent, 1, 1)), 1)


def _owned_of(there: Tensor) -> Tensor:
    """The owned cells of :func:`_existing_cells`."""
    return _displaced(there, (0,) * (there.ndim - 2))


def _displaced(ghosted: Tensor, offset: tuple[int, ...]) -> Tensor:
    """View of the owned cells moved by ``offset``, in a field with a halo of 1 and trailing basis and component axes."""
    for axis, step in enumerate(offset):
        dim = ghosted.ndim - 2 - len(offset) + axis
        ghosted = ghosted.narrow(dim, 1 + step, ghosted.shape[dim] - 2)
    return ghosted


def box_sides(extent: tuple[int, ...], vectors: Vectors) -> Array:
    """Sides of the periodic box, one a row: those of :func:`shortest_image` for displacements."""
    return np.asarray(vectors) * np.asarray(extent)[:, None]


def reciprocal_vectors(vectors: Vectors) -> Array:
    """Reciprocal lattice vectors, one a row: the sides of :func:`shortest_image` for wave vectors."""
    return 2 * math.pi * np.linalg.inv(np.asarray(vectors)).T


def shortest_image(extent: Sequence[int], sides: Array, box: Sequence[tuple[int, int]] | None = None) -> Tensor:
    """Length of the shortest periodic image of ``sum_a (j_a / extent_a) side_a``, in FFT order, float64.

    For all ``j`` of ``extent``, or those ``[start, stop)`` of a ``box``.
    """
    ranges = box or [(0, cells) for cells in extent]
    fractions = [
        torch.fft.fftfreq(cells, dtype=torch.float64)[start:stop] for cells, (start, stop) in zip(extent, ranges, strict=True)
    ]
    grid = torch.meshgrid(*fractions, indexing="ij")
    shortest = torch.full_like(grid[0], math.inf)
    for image in itertools.product((-1.0, 0.0, 1.0), repeat=len(grid)):
        along = [sum((f + i) * side for f, i, side in zip(grid, image, column, strict=True)) for column in sides.T]
        shortest = torch.minimum(shortest, torch.stack(along).square().sum(dim=0))
    return shortest.sqrt()


def _nearest_extents(lattice: Lattice, period: int) -> str:
    """``6x8 or 8x8``: the extents below and above that hold an order of ``period`` cells."""
    axes = list(zip(lattice.extent, lattice.periodic, strict=True))
    below = tuple(cells // period * period if periodic else cells for cells, periodic in axes)
    above = tuple(-(-cells // period) * period if periodic else cells for cells, periodic in axes)
    return " or ".join(shown(extent) for extent in (below, above) if min(extent) > 0)


def _cell_axes(lattice: Lattice) -> tuple[int, ...]:
    return tuple(range(-len(lattice.extent), 0))
