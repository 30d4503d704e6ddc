"""The atomic limit: sites without hopping, the baseline with no parameters that every network has to beat.

    n_i = f(e_i - mu),    e_i = H_ii(q) = -g Q_i,    F = -Tr[n dH/dq] - dV/dq

Exact for ``t = 0``; at the preset its force has a mean square error of 2e-2 to 8e-2 in the hot start and 4e-4 in the
ordered state.  Canonical ensembles conserve the electron number to round-off; at ``kT = 0`` sites that are degenerate
at ``mu`` share what is left of the electrons, and ``mu`` is one of the values in the gap.  Use ``exact`` for the
Hamiltonian with hopping.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._canonical import atomic_limit, grand_potential, occupation, on_site_energies, require_filling
from hpc_holstein.interfaces import Domain, Ensemble, ForceResult, Hamiltonian, State


@dataclass(frozen=True)
class Options:
    """The atomic limit has no options."""


class AtomicForces:
    """Force provider of the atomic limit; implements :class:`interfaces.ForceProvider` and takes any batch of states."""

    tolerance = None
    deterministic = True
    takes_batches = True

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
        density, mu, info = self._fill(q)
        classical = self.hamiltonian.classical(self.domain.pad(q, self.reach), self.reach)[1]
        force = self.hamiltonian.pull_back(q, density) + classical
        return ForceResult(
            force=force.reshape(state.q.shape),
            density=density.reshape(state.q.shape[:-1]),
            chemical_potential=mu.reshape(batch).to(q.device),
            grand_potential=self._grand_potential(q, mu).reshape(batch).to(q.device),
            info=info,
        )

    def memory_bytes(self, dtype: torch.dtype = torch.float64) -> float:
        """Bytes of one evaluation on this rank with its result, for coordinates of ``dtype``; measured."""
        return (2 * dtype.itemsize + 75) * prod(self.domain.local_extent) * len(self.domain.lattice.basis)

    def _fill(self, q: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        if self.ensemble.kind == "canonical":
            solved = atomic_limit(q, self.hamiltonian, self.domain, self.ensemble.filling, self.ensemble.kT)
            return solved.density, solved.chemical_potential, {"residual": solved.residual}
        mu = torch.full((len(q),), self.ensemble.chemical_potential, dtype=torch.float64)
        return occupation(on_site_energies(q, self.hamiltonian), mu, self.ensemble.kT), mu, {}

    def _grand_potential(self, q: Tensor, mu: Tensor) -> Tensor:
        """``Omega = -kT sum_i ln(1 + exp((mu - e_i) / kT))`` of the whole lattice, ``[batch]``."""
        energies = on_site_energies(q, self.hamiltonian).double()
        return global_sum(grand_potential(energies, mu, self.ensemble.kT), self.domain)


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> AtomicForces:
    """The atomic limit of ``hamiltonian``."""
    return AtomicForces(hamiltonian, domain, ensemble)
