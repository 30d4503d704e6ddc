"""A sample of sites at which a force is computed, the same sites for every kind of force and on any number of ranks.

Sites are numbered ``cell * basis + b`` with the cells of the whole lattice row-major.  A sample costs as much on a lattice of
any size, but it does not tell the electron number, so the chemical potential must be known.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.domain.noise import philox
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._elements import needed_entries
from hpc_holstein.interfaces import Domain, Ensemble, ForceResult, Hamiltonian, Lattice, State

_STREAM = 0x73697465  # of the noise: apart from those of the dynamics and of the probe signs
_POSITIVE = (1 << 63) - 1


def chosen_sites(lattice: Lattice, count: int, seed: int) -> Tensor:
    """``count`` distinct sites of the whole lattice, sorted, int64 ``[count]``: a pure function of the arguments.

    The first distinct ones among ``philox(k) mod sites``, ``k = 0, 1, ...``.  Raises :class:`ConfigError` for a ``count``
    outside 1 to the number of sites, or a seed outside ``[0, 2^64)``.
    """
    if not 1 <= count <= lattice.sites:
        raise ConfigError(f"sites = {count} cannot be chosen from a lattice of {lattice.sites}: give 1 to {lattice.sites}")
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed = {seed} is not an unsigned 64-bit number: give an integer from 0 to 2^64 - 1")
    if count == lattice.sites:
        return torch.arange(count)
    drawn = 2 * count
    while True:
        words = philox((torch.arange(drawn), 0, 0, 0), (seed, _STREAM))[0]
        sites, first = np.unique(((words & _POSITIVE) % lattice.sites).numpy(), return_index=True)
        if len(sites) >= count:
            return torch.from_numpy(np.sort(sites[np.argsort(first)[:count]]))
        drawn *= 2


def owned_sites(domain: Domain) -> Tensor:
    """Number of each owned site, int64 ``[*cells, basis]``."""
    basis = len(domain.lattice.basis)
    return domain.global_cells().unsqueeze(-1) * basis + torch.arange(basis, device=domain.device)


def only_at(field: Tensor, domain: Domain, sites: Tensor) -> Tensor:
    """``field`` ``[*batch, *cells, basis, components]`` of the owned cells at ``sites``, NaN elsewhere."""
    kept = torch.isin(owned_sites(domain), sites.to(domain.device))
    return torch.where(kept.unsqueeze(-1), field, torch.nan)


def sampled(result: ForceResult, domain: Domain, sites: Tensor) -> ForceResult:
    """``result`` with NaN in force and density away from ``sites``, and without a grand potential."""
    force = only_at(result.force, domain, sites)
    density = only_at(result.density.unsqueeze(-1), domain, sites).squeeze(-1)
    return replace(result, force=force, density=density, grand_potential=None)


def known_potential(state: State, ensemble: Ensemble, states: int) -> Tensor:
    """Chemical potential of each of ``states`` states, float64 ``[states]`` on the CPU, without solving for it.

    That of a grand-canonical ensemble, else of ``state.forces``; raises :class:`ConfigError` where it is not known.
    """
    if ensemble.kind == "grand-canonical":
        return torch.full((states,), ensemble.chemical_potential, dtype=torch.float64)
    known = None if state.forces is None else state.forces.chemical_potential.reshape(-1).double().cpu()
    if known is None or not torch.isfinite(known).all():
        raise ConfigError(
            "a force at sampled sites needs the chemical potential of the whole lattice, which the canonical ensemble leaves "
            "open: use a grand-canonical ensemble, set sites to 0, or validate against forces that know it"
        )
    return known


def previous_potentials(state: State, states: int) -> list[float | None]:
    """Chemical potential of the forces that ``state`` carries, for each of ``states`` states; None where there is none."""
    if state.forces is None:
        return [None] * states
    return [mu if math.isfinite(mu) else None for mu in state.forces.chemical_potential.reshape(-1).tolist()]


def read_for(sites: Tensor, hamiltonian: Hamiltonian, domain: Domain, both_ends: bool = False) -> Tensor:
    """States at which entries of ``rho`` start that the force at ``sites`` takes, in whole cells, sorted.

    Those of their own cells, and of the cells that a bond which moves with the coordinates leads from to theirs; with
    ``both_ends`` also of the cells that one leads to.
    """
    lattice, basis, states = domain.lattice, len(hamiltonian.lattice.basis), hamiltonian.states
    own = np.unravel_index(np.unique(sites.numpy() // basis), lattice.extent)
    cells = [np.stack(own)]
    steps = {hamiltonian.pattern[entry].offset for entry in needed_entries(hamiltonian, domain)}
    if both_ends:
        steps |= {tuple(-step for step in offset) for offset in steps}
    for step in sorted(steps):
        from_there = np.stack(own) - np.asarray(step)[:, None]
        extent = np.asarray(lattice.extent)[:, None]
        exists = ((from_there >= 0) & (from_there < extent) | np.asarray(lattice.periodic)[:, None]).all(axis=0)
        cells.append((from_there % extent)[:, exists])
    numbers = np.unique(np.ravel_multi_index(tuple(np.concatenate(cells, axis=1)), lattice.extent))
    return (torch.from_numpy(numbers)[:, None] * states + torch.arange(states)).reshape(-1)


def lowest_sites(value: Tensor, domain: Domain, count: int) -> Tensor:
    """Numbers of the ``count`` sites of the whole lattice with the smallest ``value`` ``[*cells, basis]``, or of all.

    Smallest first, of equal ones the lower number; the same on all ranks.  Collective.
    """
    count = min(count, domain.lattice.sites)
    mine = min(count, value.numel())
    lowest = torch.sort(value.reshape(-1), stable=True)  # numbers rise within a tile
    table = torch.full((domain.size, count, 2), 0.0, dtype=torch.float64)
    table[domain.rank, :, 0] = torch.finfo(torch.float64).max
    table[domain.rank, :mine, 0] = lowest.values[:mine].double().cpu()
    table[domain.rank, :mine, 1] = owned_sites(domain).reshape(-1)[lowest.indices[:mine]].double().cpu()
    every = domain.allsum(table).reshape(-1, 2).numpy()
    order = np.lexsort((every[:, 1], every[:, 0]))[:count]
    return torch.from_numpy(every[order, 1]).long()
