"""Providers that solve for the density matrix of one state of a batch after the other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_holstein.forces._canonical import require_filling
from hpc_holstein.forces._elements import electron_domain, on_sites
from hpc_holstein.forces._sampled import chosen_sites, known_potential, previous_potentials, sampled
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, State


@dataclass(frozen=True)
class Solution:
    """One state: ``rho [cells, pattern]`` or its diagonal, zero where it is not needed; ``mu``, ``Omega``, what is told.

    The grand potential is NaN where it is not known.
    """

    rho: Tensor
    chemical_potential: float
    grand_potential: float
    info: dict[str, float]


class StateByState(ForceProvider):
    """Forces from :meth:`_solve` of each state.

    ``sites`` > 0: at a sample of them alone, drawn by ``seed``, at a chemical potential that is known; force and density are
    NaN elsewhere, and there is no grand potential.  Of the numbers in ``info``, the largest of the batch is told.
    """

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble, sites: int, seed: int) -> None:
        require_filling(ensemble)
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, electron_domain(hamiltonian, domain), ensemble
        self._of_sites = domain
        self._chosen = chosen_sites(domain.lattice, sites, seed) if sites else None

    @abstractmethod
    def _solve(self, q: Tensor, known: float | None, previous: float | None) -> Solution:
        """One state ``[*cells, basis, components]``, of any float type, at the ``known`` mu, else at that of the filling.

        ``previous``: that of the forces before, if there are any.
        """

    def _refuse(self, q: Tensor, step: int) -> None:
        """Raise for states ``[batch, *cells, basis, components]`` that have no solution, on all ranks alike."""

    @torch.no_grad()
    def __call__(self, state: State) -> ForceResult:
        """Force, density, chemical and grand potential of ``state.q``; collective over the ranks of the domain."""
        axes = len(self.domain.local_extent) + 2
        batch = state.q.shape[: state.q.ndim - axes]
        q = state.q.reshape(-1, *state.q.shape[state.q.ndim - axes :])
        self._refuse(q, state.step)
        known: list[float | None] = [None] * len(q)
        if self._chosen is not None or self.ensemble.kind == "grand-canonical":
            known = known_potential(state, self.ensemble, len(q)).tolist()
        solved = [self._solve(*each) for each in zip(q, known, previous_potentials(state, len(q)), strict=True)]
        q64, halo = q.double(), self.hamiltonian.reach
        rho = torch.stack([one.rho for one in solved]).reshape(*q.shape[:-2], -1).to(q.device)
        force = self.hamiltonian.force(self.domain.pad(q64, halo), halo, rho, self.domain)
        result = ForceResult(
            force=force.to(q.dtype).reshape(state.q.shape),
            density=on_sites(self.hamiltonian, rho).to(q.dtype).reshape(state.q.shape[:-1]),
            chemical_potential=q64.new_tensor([one.chemical_potential for one in solved]).reshape(batch),
            grand_potential=q64.new_tensor([one.grand_potential for one in solved]).reshape(batch),
            info={name: max(one.info[name] for one in solved) for name in solved[0].info},
        )
        return result if self._chosen is None else sampled(result, self._of_sites, self._chosen)
