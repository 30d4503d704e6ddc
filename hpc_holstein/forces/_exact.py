"""Exact diagonalization, with its matrix; :mod:`hpc_holstein.forces.exact` says what it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import _filling
from hpc_holstein.forces._canonical import require_filling
from hpc_holstein.forces._elements import WholeMatrix, electron_domain, needed_entries, on_sites
from hpc_holstein.forces._memory import usable_bytes
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, State

_MATRICES = 5  # N x N float64 arrays alive at the peak of the eigensolver, measured
_BYTES = 8


class ExactForces(ForceProvider):
    """Adiabatic forces by exact diagonalization; implements :class:`interfaces.ForceProvider`.

    ``q`` of any float type and any batch shape; the result is computed in float64 and returned in the type of ``q``
    (chemical and grand potential in float64).  Raises SpectrumError where ``q`` holds NaN or infinity.
    """

    reach = None
    tolerance = 1e-9
    knows_spectrum = True

    def __init__(self, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble, deterministic: bool = False) -> None:
        require_filling(ensemble)
        domain = electron_domain(hamiltonian, domain)
        _require_memory(domain)
        self.deterministic = deterministic
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, domain, ensemble
        self._needed = needed_entries(hamiltonian, domain)
        self._elements = WholeMatrix(hamiltonian, CartesianDomain(domain.lattice, SerialTransport(), device=domain.device))

    def __call__(self, state: State) -> ForceResult:
        """Force, density, chemical and grand potential of ``state.q``; collective over the ranks of the domain."""
        return self.at_potentials(state, ())[0]

    def at_potentials(self, state: State, offsets: Sequence[float]) -> tuple[ForceResult, Tensor, Tensor | None]:
        """The forces of ``state``, and densities and forces at ``mu + offset`` from the same diagonalization.

        ``offsets [M]``, ``t_nn``; ``[*batch, *cells, M, basis(, components)]``, float64, no forces if the densities tell them.
        """
        q = state.q.to(torch.float64)
        rho, mu, omega, uncertain = self._density_matrix(q, offsets)
        rho, further = rho[..., 0, :], rho[..., 1:, :]
        if not torch.isfinite(mu).all():
            raise SpectrumError(
                f"the coordinates at step {state.step} hold NaN or infinity, so H(q) has no spectrum: "
                "check the initial state, or reduce dt"
            )
        halo = self.hamiltonian.reach
        force = self.hamiltonian.force(self.domain.pad(q, halo), halo, rho, self.domain)
        result = ForceResult(
            force=force.to(state.q.dtype),
            density=on_sites(self.hamiltonian, rho).to(state.q.dtype),
            chemical_potential=mu,
            grand_potential=omega,
            info={"diagonalizations": float(max(mu.numel(), 1)), **self._told(uncertain)},
        )
        more = None
        if offsets and not self.hamiltonian.tells_density:
            ghosted = self.domain.pad(q, halo)
            of_each = [self.hamiltonian.force(ghosted, halo, one.contiguous(), self.domain) for one in further.unbind(-2)]
            more = torch.stack(of_each, dim=-3)
        return result, on_sites(self.hamiltonian, further), more

    def _told(self, uncertain: Tensor) -> dict[str, float]:
        return {"mu_uncertainty": float(uncertain.max())} if self.ensemble.kind == "canonical" else {}

    def memory_bytes(self, dtype: torch.dtype = torch.float64) -> float:
        """Bytes of one evaluation on this rank: those of the matrices, which are on the root."""
        return _MATRICES * _BYTES * float(self.domain.lattice.sites) ** 2 if self.domain.rank == 0 else 0.0

    def _density_matrix(self, q: Tensor, offsets: Sequence[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``rho`` on the owned part of the pattern at ``mu`` and at ``mu + offsets``, ``[*batch, *cells, 1 + M, pattern]``;
        ``[*batch]`` of ``mu``, ``Omega`` and the uncertainty of ``mu``.

        The potentials are the same on all ranks.
        """
        batch = q.shape[: -(len(self.domain.lattice.extent) + 2)]
        global_q = self.domain.gather(q)
        potentials = q.new_zeros((*batch, 3))
        global_rho = None
        if global_q is not None:
            snapshots = global_q.reshape(-1, *global_q.shape[len(batch) :])
            with _threads(1) if self.deterministic else nullcontext():
                solved = [self._solve(snapshot, offsets) for snapshot in snapshots]
            global_rho = torch.stack([rho for rho, _ in solved]).reshape(*global_q.shape[:-2], -1, 1)
            potentials = q.new_tensor([potential for _, potential in solved]).reshape(*batch, 3)
        potentials = self.domain.allsum(potentials)  # zero on all ranks but the root: a broadcast
        shape = 1 + len(offsets), len(self.hamiltonian.pattern)
        like = q.new_empty((*q.shape[:-2], math.prod(shape), 1))
        mu, omega, uncertain = potentials.unbind(-1)
        return self.domain.scatter(global_rho, like)[..., 0].unflatten(-1, shape), mu, omega, uncertain

    def _solve(self, q: Tensor, offsets: Sequence[float]) -> tuple[Tensor, list[float]]:
        """One snapshot ``[*extent, basis, components]``: ``rho [cells, 1 + M, pattern]``; potentials and the uncertainty of the
        chemical one."""
        starts, ends = self._elements.starts, self._elements.ends
        rho = q.new_zeros((len(starts), 1 + len(offsets), starts.shape[1]))
        if not torch.isfinite(q).all():
            return rho, [math.nan] * 3
        energies, states = torch.linalg.eigh(self._matrix(q))
        levels = energies.cpu().numpy()
        kT = self.ensemble.kT
        if self.ensemble.kind == "canonical":
            mu, filled = _filling.fill(levels, self.ensemble.filling * levels.size, kT)
        else:
            mu = self.ensemble.chemical_potential
            filled = _filling.fermi(levels, mu, kT)
        every = [filled, *(_filling.fermi(levels, mu + offset, kT) for offset in offsets)]
        occupations = [torch.from_numpy(one).to(states) for one in every]
        for entry in self._needed:
            weights = states[starts[:, entry]] * states[ends[:, entry]]
            for number, one in enumerate(occupations):
                rho[:, number, entry] = weights @ one
        potentials = [mu, _filling.grand_potential(levels, mu, kT), _filling.uncertainty(levels, mu, kT)]
        return rho * (ends >= 0)[:, None], potentials

    def _matrix(self, q: Tensor) -> Tensor:
        """``H(q)`` as a dense symmetric matrix; bonds that wrap onto the same pair of sites add up."""
        place = self._elements.rows, self._elements.columns
        return q.new_zeros((self.domain.lattice.sites,) * 2).index_put_(place, self._elements.values(q), accumulate=True)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _require_memory(domain: Domain) -> None:
    """Refuse a matrix that does not fit, on all ranks alike: only the root knows what it has."""
    sites = domain.lattice.sites
    needed = _MATRICES * _BYTES * sites**2
    own = usable_bytes(domain.device) if domain.rank == 0 else 0.0
    there = float(domain.allsum(torch.tensor(own, dtype=torch.float64, device=domain.device)))
    if needed > there:
        fits = int((there / (_MATRICES * _BYTES)) ** 0.5)
        raise ConfigError(
            f"exact diagonalization of {sites} states needs {needed / 2**30:.0f} GiB and {there / 2**30:.0f} GiB are there: "
            f'give a lattice of at most {fits} states, or use force kind = "kpm", "local" or "neural"'
        )
