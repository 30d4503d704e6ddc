"""The sites without hopping; :mod:`hpc_holstein.forces.atomic` says what it computes."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._canonical import (
    CanonicalDensity,
    grand_potential,
    occupation,
    require_filling,
    site_mean,
    solve_chemical_potential,
)
from hpc_holstein.forces._elements import electron_domain, on_sites
from hpc_holstein.forces._filling import fill, potential_uncertainty, uncertainty
from hpc_holstein.forces._gap import FLAT, Levels, balanced
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, State

_SORTED = 4096  # sites of lattices whose levels one rank sorts


class AtomicForces(ForceProvider):
    """Force provider of the atomic limit; implements :class:`interfaces.ForceProvider` and takes any batch of states."""

    tolerance = None
    deterministic = True
    takes_batches = True
    batches_exactly = True

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        require_filling(ensemble)
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, electron_domain(hamiltonian, domain), ensemble
        self.reach: int = hamiltonian.reach
        self._within = [  # entries of the pattern between different states of one site
            (number, bond.source, bond.target)
            for number, bond in enumerate(hamiltonian.pattern)
            if bond.source != bond.target
            and not any(bond.offset)
            and bond.source // hamiltonian.orbitals == bond.target // hamiltonian.orbitals
        ]
        domain.require_halo(self.reach)

    @torch.no_grad()
    def __call__(self, state: State) -> ForceResult:
        """Force, density, ``mu`` and grand potential of the sites at ``t = 0``; shapes as in :class:`ForceResult`."""
        axes = len(self.domain.local_extent) + 2
        batch = state.q.shape[: state.q.ndim - axes]
        q = state.q.reshape(-1, *state.q.shape[state.q.ndim - axes :])
        ghosted = self.domain.pad(q, self.reach)
        levels, turned = self._levels(self.hamiltonian.matrix(ghosted, self.reach))
        filled, mu, info = self._fill(levels)
        rho = filled if turned is None else self._of_states(filled, turned)
        force = self.hamiltonian.force(ghosted, self.reach, rho, self.domain)
        return ForceResult(
            force=force.reshape(state.q.shape),
            density=on_sites(self.hamiltonian, filled).reshape(state.q.shape[:-1]),
            chemical_potential=mu.reshape(batch).to(q.device),
            grand_potential=self._grand_potential(levels, mu).reshape(batch).to(q.device),
            info=info,
        )

    def memory_bytes(self, dtype: torch.dtype = torch.float64) -> float:
        """Bytes of one evaluation on this rank with its result, for coordinates of ``dtype``; measured."""
        return (2 * dtype.itemsize + 75) * prod(self.domain.local_extent) * len(self.domain.lattice.basis)

    def _levels(self, entries: Tensor) -> tuple[Tensor, Tensor | None]:
        """Levels of each site ``[batch, *cells, states]``, and its eigenvectors, None if nothing joins its states.

        ``[batch, *cells, basis, orbitals, orbitals]``, a column each.
        """
        states, orbitals = self.hamiltonian.states, self.hamiltonian.orbitals
        diagonal = entries[..., :states]
        if not self._within:
            return diagonal, None
        block = torch.diag_embed(diagonal.unflatten(-1, (-1, orbitals)))
        for number, one, other in self._within:
            for row, column in ((one, other), (other, one)):
                block[..., row // orbitals, row % orbitals, column % orbitals] = entries[..., number]
        levels, vectors = torch.linalg.eigh(block)
        return levels.flatten(-2), vectors

    def _of_states(self, filled: Tensor, vectors: Tensor) -> Tensor:
        """``rho`` on the pattern ``[batch, *cells, pattern]`` of decoupled sites whose levels are ``filled``."""
        states, orbitals = self.hamiltonian.states, self.hamiltonian.orbitals
        rho = filled.new_zeros((*filled.shape[:-1], len(self.hamiltonian.pattern)))
        block = (vectors * filled.unflatten(-1, (-1, orbitals)).unsqueeze(-2)) @ vectors.mT
        rho[..., :states] = block.diagonal(dim1=-2, dim2=-1).flatten(-2)
        for number, one, other in self._within:
            rho[..., number] = block[..., one // orbitals, one % orbitals, other % orbitals]
        return rho

    def _fill(self, levels: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        if self.ensemble.kind == "canonical":
            solved = atomic_limit(levels, self.domain, self.ensemble.filling, self.ensemble.kT)
            mu, uncertain = self._potentials(levels, solved)
            return solved.density, mu, {"residual": solved.residual, "mu_uncertainty": uncertain}
        mu = torch.full((len(levels),), self.ensemble.chemical_potential, dtype=torch.float64)
        return occupation(levels, mu, self.ensemble.kT), mu, {}

    def _potentials(self, levels: Tensor, solved: CanonicalDensity) -> tuple[Tensor, float]:
        """``mu [batch]``, in a gap as :mod:`forces._gap` defines it, and the largest uncertainty of them."""
        chi, mu = site_mean(solved.density * (1 - solved.density), self.domain), solved.chemical_potential
        flat = torch.nonzero(chi < FLAT)[:, 0]
        uncertain = [potential_uncertainty(float(one), self.ensemble.kT) for one in chi[chi >= FLAT]]
        if len(flat):
            found = self._balanced(levels[flat.to(levels.device)].double(), mu[flat])
            mu = mu.index_copy(0, flat, found[:, 0])
            uncertain.append(float(found[:, 1].max()))
        return mu, max(uncertain)

    def _balanced(self, levels: Tensor, guesses: Tensor) -> Tensor:
        """``mu`` in a gap and its uncertainty, ``[batch, 2]``; small lattices are sorted on the root, which is far cheaper."""
        kT, electrons = self.ensemble.kT, self.ensemble.filling * self.domain.lattice.sites
        if self.domain.lattice.sites > _SORTED:
            found = [
                balanced(Levels.of_sites(one, self.domain), float(guess), electrons, kT)
                for one, guess in zip(levels, guesses, strict=True)
            ]
            return torch.tensor(found, dtype=torch.float64)
        of_root = torch.zeros((len(levels), 2), dtype=torch.float64)
        whole = self.domain.gather(levels.movedim(0, -1).contiguous())
        if whole is not None:
            for row, energies in zip(of_root, np.sort(whole.reshape(-1, len(levels)).cpu().numpy(), axis=0).T, strict=True):
                mu = fill(energies, electrons, kT)[0]
                row[0], row[1] = mu, uncertainty(energies, mu, kT)
        return self.domain.allsum(of_root)

    def _grand_potential(self, levels: Tensor, mu: Tensor) -> Tensor:
        """``Omega = -kT sum_i ln(1 + exp((mu - e_i) / kT))`` of the whole lattice, ``[batch]``."""
        return global_sum(grand_potential(levels.double(), mu, self.ensemble.kT), self.domain)


def atomic_limit(energies: Tensor, domain: Domain, filling: float, kT: float) -> CanonicalDensity:
    """Canonical density of decoupled sites, ``n_i = f(e_i - mu)`` with the ``energies`` ``e_i``, to round-off.

    ``energies``: ``[batch, *cells, basis]``.
    """
    mean = site_mean(energies, domain)
    spread = (site_mean(energies.double().square(), domain) - mean.square()).clamp_min(0).sqrt() + kT
    return solve_chemical_potential(
        density=lambda mu, rows: occupation(energies if len(rows) == len(energies) else energies[rows], mu, kT),
        mean=lambda n: site_mean(n, domain),
        filling=filling,
        kT=kT,
        guess=mean,
        slope=0.4 / spread,  # the peak of a normal distribution of levels
        density_tolerance=0.0,
    )
