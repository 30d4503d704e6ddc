"""The sites without hopping; :mod:`hpc_holstein.forces.atomic` says what it computes."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._canonical import (
    CanonicalDensity,
    atomic_limit,
    grand_potential,
    occupation,
    on_site_energies,
    require_filling,
    site_mean,
)
from hpc_holstein.forces._filling import potential_uncertainty
from hpc_holstein.forces._gap import FLAT, Levels, balanced
from hpc_holstein.interfaces import Domain, Ensemble, ForceResult, Hamiltonian, State


class AtomicForces:
    """Force provider of the atomic limit; implements :class:`interfaces.ForceProvider` and takes any batch of states."""

    tolerance = None
    deterministic = True
    takes_batches = True
    batches_exactly = True

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        require_filling(ensemble)
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, domain, ensemble
        self.reach = hamiltonian.reach
        domain.require_halo(self.reach)

    @torch.no_grad()
    def __call__(self, state: State) -> ForceResult:
        """Force, density, ``mu`` and grand potential of the sites at ``t = 0``; shapes as in :class:`ForceResult`."""
        axes = len(self.domain.local_extent) + 2
        batch = state.q.shape[: state.q.ndim - axes]
        q = state.q.reshape(-1, *state.q.shape[state.q.ndim - axes :])
        ghosted = self.domain.pad(q, self.reach)
        levels = on_site_energies(ghosted, self.reach, self.hamiltonian)
        density, mu, info = self._fill(levels)
        force = self.hamiltonian.force(ghosted, self.reach, density, self.domain)
        return ForceResult(
            force=force.reshape(state.q.shape),
            density=density.reshape(state.q.shape[:-1]),
            chemical_potential=mu.reshape(batch).to(q.device),
            grand_potential=self._grand_potential(levels, mu).reshape(batch).to(q.device),
            info=info,
        )

    def memory_bytes(self, dtype: torch.dtype = torch.float64) -> float:
        """Bytes of one evaluation on this rank with its result, for coordinates of ``dtype``; measured."""
        return (2 * dtype.itemsize + 75) * prod(self.domain.local_extent) * len(self.domain.lattice.basis)

    def _fill(self, levels: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        if self.ensemble.kind == "canonical":
            solved = atomic_limit(levels, self.domain, self.ensemble.filling, self.ensemble.kT)
            mu, uncertain = self._potentials(levels, solved)
            return solved.density, mu, {"residual": solved.residual, "mu_uncertainty": uncertain}
        mu = torch.full((len(levels),), self.ensemble.chemical_potential, dtype=torch.float64)
        return occupation(levels, mu, self.ensemble.kT), mu, {}

    def _potentials(self, levels: Tensor, solved: CanonicalDensity) -> tuple[Tensor, float]:
        """``mu [batch]``, in a gap as :mod:`forces._gap` defines it, and the largest uncertainty of them."""
        ensemble, mu = self.ensemble, solved.chemical_potential
        chi = site_mean(solved.density * (1 - solved.density), self.domain)
        flat = torch.nonzero(chi < FLAT)[:, 0].tolist()
        uncertain = [potential_uncertainty(float(one), ensemble.kT) for i, one in enumerate(chi) if i not in flat]
        mu = mu.clone() if flat else mu
        for i in flat:
            of_state = Levels.of_sites(levels[i].double(), self.domain)
            electrons = ensemble.filling * self.domain.lattice.sites
            mu[i], width = balanced(of_state, float(mu[i]), electrons, ensemble.kT)
            uncertain.append(width)
        return mu, max(uncertain)

    def _grand_potential(self, levels: Tensor, mu: Tensor) -> Tensor:
        """``Omega = -kT sum_i ln(1 + exp((mu - e_i) / kT))`` of the whole lattice, ``[batch]``."""
        return global_sum(grand_potential(levels.double(), mu, self.ensemble.kT), self.domain)
