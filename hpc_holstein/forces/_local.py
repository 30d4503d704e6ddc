"""Divide and conquer; :mod:`hpc_holstein.forces.local` says what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._canonical import (
    grand_potential,
    occupation,
    site_mean,
    solve_chemical_potential,
)
from hpc_holstein.forces._clusters import Clusters
from hpc_holstein.forces._elements import needed_entries, require_finite
from hpc_holstein.forces._filling import potential_uncertainty
from hpc_holstein.forces._first_guess import LocalSpectra
from hpc_holstein.forces._gap import FLAT, PRESENT, Levels, balanced
from hpc_holstein.forces._memory import usable_bytes
from hpc_holstein.forces._sampled import owned_sites, read_for
from hpc_holstein.forces._state_by_state import Solution, StateByState
from hpc_holstein.forces.local import Options
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

_BYTES = 8
_MATRICES = 4  # n x n arrays alive per cluster: the matrix, its eigenvectors, the workspace of the solver
_CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**31}  # of these; on a CPU, larger chunks are not faster
_SAME_LEVEL = 2.0**-32  # at kT = 0, in t_nn: levels of different clusters that round to one multiple are one level


@dataclass(frozen=True)
class _Levels:
    """Spectra of the clusters of a rank: ``energies [number, n]``, ``weights [number, centres, n]`` of sum 1 over ``n``.

    ``pairs [number, pairs, n]``: ``psi_k(i) psi_k(j)`` of the wanted entries of ``rho`` off the diagonal.
    """

    energies: Tensor
    weights: Tensor
    pairs: Tensor

    def sum(self, of_level: Tensor) -> Tensor:
        """``sum_k |psi_k(c)|^2 x_k`` for ``x [number, n]``: ``[number, centres]``."""
        return torch.bmm(self.weights, of_level[..., None])[..., 0]

    def pair_sum(self, of_level: Tensor) -> Tensor:
        """``sum_k psi_k(i) psi_k(j) x_k`` for ``x [number, n]``: ``[number, pairs]``."""
        return torch.bmm(self.pairs, of_level[..., None])[..., 0]


class LocalForces(StateByState):
    """Force provider by divide and conquer; implements :class:`interfaces.ForceProvider` and takes any batch of states.

    ``q`` of any float type; the result is computed in float64 and returned in the type of ``q`` (chemical and grand
    potential in float64), and depends on ``q`` alone.  In a gap ``mu`` balances electrons and holes.

    ``info``: ``clusters`` diagonalized for a state on all ranks; in a canonical ensemble ``residual`` of the filling, and
    ``mu_uncertainty``.  Raises SpectrumError where ``q`` holds NaN.
    """

    tolerance = None

    def __init__(self, options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        _require_options(options)
        super().__init__(hamiltonian, domain, ensemble, options.sites, options.seed)
        self._moving = [e for e in needed_entries(hamiltonian, domain) if e >= hamiltonian.states]
        chosen = None if self._chosen is None else self._read(self._chosen)
        size = options.reach, options.core, options.embedding
        self._clusters = Clusters(hamiltonian, self.domain, size, self._moving, chosen)
        self.reach = self._clusters.halo + (hamiltonian.reach if self._moving else 0)
        _require_memory(self._clusters, domain)

    def _read(self, sites: Tensor) -> Tensor:
        """Owned cells whose clusters the force at ``sites`` needs, those at both ends of each bond: ``[*cells]``."""
        needed = read_for(sites, self.hamiltonian, self.domain, both_ends=True).to(self.domain.device)
        return torch.isin(owned_sites(self.domain), needed).any(dim=-1)

    def _refuse(self, q: Tensor, step: int) -> None:
        require_finite(q, step, self.domain)

    def _solve(self, q: Tensor, known: float | None, previous: float | None) -> Solution:
        levels = self._diagonalize(self.domain.pad(q.double(), self._clusters.halo))
        mu, told = known, {"residual": 0.0}
        if mu is None:
            rho, mu, told = self._canonical(q, levels)
        else:
            rho = self._rho(levels, torch.tensor(mu, dtype=torch.float64))
        told["clusters"] = float(self.domain.allsum(torch.tensor(float(self._clusters.number), dtype=torch.float64)))
        return Solution(rho, mu, self._grand_potential(levels, mu), told)

    def _rho(self, levels: _Levels, mu: Tensor) -> Tensor:
        """The diagonal of ``rho``, or ``rho [*cells, pattern]`` if the force needs more, zero in entries that it does not."""
        f = occupation(levels.energies[None], self._rounded(mu).reshape(1), self.ensemble.kT)[0]
        density = self._clusters.owned(levels.sum(f))
        if not self._moving:
            return density
        rho = density.new_zeros((*density.shape[:-1], len(self.hamiltonian.pattern)))
        rho[..., : density.shape[-1]] = density
        rho[..., self._moving] = self._clusters.bond_orders(levels.pair_sum(f), self._moving, self.domain)
        return rho

    def _canonical(self, q: Tensor, levels: _Levels) -> tuple[Tensor, float, dict[str, float]]:
        """``rho``, ``mu`` of the filling, and what is told of them."""
        ensemble = self.ensemble
        spectra = LocalSpectra.of(self.hamiltonian, self.domain, q[None], ensemble.kT)
        guess = spectra.chemical_potential(ensemble.filling)
        solved = solve_chemical_potential(
            density=lambda mu, rows: self._rho(levels, mu)[None],  # bond orders of a level that is filled in part follow it
            mean=lambda rho: site_mean(rho[..., : self.hamiltonian.states], self.domain),
            filling=ensemble.filling,
            kT=ensemble.kT,
            guess=guess,
            slope=spectra.slope(guess),
            density_tolerance=0.0,
        )
        mu, uncertain = self._potential(levels, float(solved.chemical_potential[0]))
        return solved.density[0], mu, {"residual": solved.residual, "mu_uncertainty": uncertain}

    def _potential(self, levels: _Levels, mu: float) -> tuple[float, float]:
        """``mu``, in a gap as :mod:`forces._gap` defines it, and its uncertainty."""
        kT, sites = self.ensemble.kT, self.domain.lattice.sites

        def totals(rows: Tensor) -> Tensor:
            return global_sum(torch.stack([self._clusters.owned(levels.sum(row)) for row in rows]), self.domain)

        f = occupation(levels.energies[None], torch.tensor([mu], dtype=torch.float64), kT)[0]
        chi = float(totals((f * (1 - f))[None])[0]) / sites
        if chi < FLAT:
            spread = Levels(levels.energies, levels.weights.amax(dim=1) > PRESENT, totals, self.domain)
            mu, uncertain = balanced(spread, mu, self.ensemble.filling * sites, kT)
        else:
            uncertain = potential_uncertainty(chi, kT)
        return mu, uncertain

    def _diagonalize(self, ghosted_q: Tensor) -> _Levels:
        """Spectra of all clusters, by chunks that bound the memory."""
        clusters = self._clusters
        energies, weights, pairs = (
            ghosted_q.new_empty((clusters.number, *rows, clusters.sites))
            for rows in ((), (clusters.centres,), (clusters.pairs,))
        )
        size = _CHUNK_BYTES[ghosted_q.device.type] // (_MATRICES * _BYTES * clusters.sites**2)
        for first, last in clusters.chunks(max(1, size)):
            energies[first:last], states = torch.linalg.eigh(clusters.matrices(ghosted_q, first, last))
            weights[first:last] = clusters.at_centres(states)
            pairs[first:last] = clusters.of_pairs(states)
        weights /= weights.sum(dim=-1, keepdim=True)  # electrons are counted to round-off
        return _Levels(self._rounded(energies), weights, pairs)

    def _rounded(self, energies: Tensor) -> Tensor:
        """At ``kT = 0`` the occupation is a step: equal levels must stay equal, whichever cluster they come from."""
        return energies if self.ensemble.kT > 0 else (energies / _SAME_LEVEL).round() * _SAME_LEVEL

    def _grand_potential(self, levels: _Levels, mu: float) -> float:
        """``Omega = -kT sum_c sum_k |psi_k(c)|^2 ln(1 + exp((mu - e_k) / kT))`` of the whole lattice."""
        of_level = grand_potential(levels.energies[None], torch.tensor([mu], dtype=torch.float64), self.ensemble.kT)[0]
        return float(global_sum(self._clusters.owned(levels.sum(of_level))[None], self.domain)[0])


def _require_options(options: Options) -> None:
    if options.reach < 0:
        raise ConfigError(f"reach = {options.reach} is not a number of cells: give 0 (the atomic limit) or more, such as 3")
    if options.embedding < 0:
        raise ConfigError(f"embedding = {options.embedding} is not a number of cells: give 0 (open clusters) or more")
    if options.core < 1:
        raise ConfigError(f"core = {options.core} leaves no cell to compute: give 1 or more")


def _require_memory(clusters: Clusters, domain: Domain) -> None:
    """Refuse levels that do not fit, on all ranks alike; the temporary arrays of one cluster count too."""
    rows = 1 + clusters.centres + clusters.pairs
    levels = 2 * clusters.number * clusters.sites * rows  # twice: functions of the levels beside them
    needed = _BYTES * (levels + _MATRICES * clusters.sites**2)
    of_ranks = torch.zeros((domain.size, 2), dtype=torch.float64)
    of_ranks[domain.rank] = torch.tensor([needed, usable_bytes(domain.device)], dtype=torch.float64)
    for rank, (there, fits) in enumerate(domain.allsum(of_ranks).tolist()):
        if there > fits:
            raise ConfigError(
                f"clusters of {clusters.sites} sites for the tile of rank {rank} need {there / 2**30:.1f} GiB and "
                f"{fits / 2**30:.1f} GiB are there: use more ranks on more nodes, or a smaller reach"
            )
