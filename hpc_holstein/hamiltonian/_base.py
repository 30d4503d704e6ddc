"""Base of every Hamiltonian: forces as vector-Jacobian products of its matrix and of its classical energy.

    F = -d/dq (V(q) + Tr[rho H(q)])  at fixed rho

``matrix`` and ``energy`` of a file need nothing but ghosted coordinates, so that a model is its equations; the energy is that
of springs where a file does not write another one.  A file may write its forces out, which saves time, and the conformance
tests hold them to the product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpc_holstein.errors import ConfigError
from hpc_holstein.fields import Field, displaced
from hpc_holstein.interfaces import Bond, Domain, Lattice
from hpc_holstein.lattice._neighbour_sums import neighbour_sums
from hpc_holstein.symmetry.orbitals import ORBITALS

if TYPE_CHECKING:  # a configuration is checked without loading torch
    from torch import Tensor

_FLAT = 1e-12  # a stiffness that is zero but for round-off, in units of k and kappa


class LatticeHamiltonian(ABC):
    """One-body matrix on a fixed pattern of bonds, and classical potential; see :class:`interfaces.Hamiltonian`.

    ``bonds``: each off-diagonal pair of states once, those of one site among them; the diagonal is put before them.
    ``orbital_kind``: what the states of a site are, a name in :data:`symmetry.orbitals.ORBITALS`.
    """

    name: str
    coordinates: Field
    options: Any  # parameters, a dataclass; a class without one states ``parameters`` itself
    elastic: tuple[str, str]  # names of the stiffness of a site and of the coupling of neighbours in ``V``
    hops_by: str | None = None  # name of the hopping between nearest neighbours, if it is a parameter
    tells_density = False

    def __init__(self, lattice: Lattice, components: int, bonds: Sequence[Bond], orbital_kind: str = "s") -> None:
        self.lattice, self.components = lattice, components
        self.orbital_kind, self.orbitals = orbital_kind, ORBITALS[orbital_kind]
        self.states = len(lattice.basis) * self.orbitals
        diagonal = tuple(Bond(state, state, (0,) * len(lattice.extent)) for state in range(self.states))
        self.pattern = diagonal + tuple(bonds)
        self.reach = max((abs(step) for bond in bonds for step in bond.offset), default=0)

    @property
    def parameters(self) -> dict[str, float]:
        """Name and value of every parameter, as model cards and data files record them."""
        return asdict(self.options)

    @property
    def hopping(self) -> float:
        """Unit of energy in which a network reads the matrix: the size of the hopping of nearest neighbours, 1 without one."""
        return 1.0 if self.hops_by is None else abs(self.parameters[self.hops_by]) or 1.0

    @abstractmethod
    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """Matrix elements on the pattern, of the bonds that start in the cells within ``halo >= reach`` ghosts.

        ``[*batch, *ghosted cells, basis, components]`` -> ``[*batch, *cells, len(pattern)]``.
        """

    def energy(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """Classical potential of each cell, ``[*batch, *cells]``; a bond counts in the cell that it starts from.

        ``V = sum_i k |q_i|^2 / 2 + kappa sum_<ij> q_i.q_j`` with the parameters that ``elastic`` names.
        """
        k, kappa = (self.parameters[name] for name in self.elastic)
        energy = 0.5 * k * self.owned(ghosted_q, halo).square().sum(dim=(-2, -1))
        for bond in self.lattice.bonds(1):
            one, other = ends(ghosted_q, halo, bond)
            energy = energy + kappa * (one * other).sum(dim=-1)
        return energy

    def owned(self, ghosted_q: Tensor, halo: int) -> Tensor:
        """Coordinates of the cells within ``halo`` ghosts, ``[*batch, *cells, basis, components]``."""
        return displaced(ghosted_q, halo, (0,) * len(self.lattice.extent))

    @property
    def stiffness(self) -> tuple[float, float]:
        """Lowest and highest eigenvalue of the Hessian of ``V`` on this lattice, ``k + kappa s`` [t_nn/a^2].

        ``s`` are the eigenvalues of the sum over the nearest neighbours, -4 to 4 on the infinite square lattice.
        """
        k, kappa = (self.parameters[name] for name in self.elastic)
        ends = [k + kappa * s for s in neighbour_sums(self.lattice)]
        return min(ends), max(ends)

    def require_ground_state(self) -> None:
        """Raise ConfigError if ``V`` does not grow faster than the energy of the electrons falls: no lower bound."""
        (site, coupling), (lowest, _) = self.elastic, self.stiffness
        k, kappa = self.parameters[site], self.parameters[coupling]
        if lowest > _FLAT * (abs(k) + abs(kappa)):
            return
        cells = "x".join(map(str, self.lattice.extent))
        raise ConfigError(
            f"hamiltonian.{site} = {k:g} with {coupling} = {kappa:g} has no ground state: the softest mode of the {cells} "
            f"{self.lattice.name} lattice has the stiffness {min(lowest, 0.0):.3g} t_nn/a^2, so coordinates would grow without "
            f"bound; give {site} > {k - lowest:g} or a smaller |{coupling}|"
        )

    def force(self, ghosted_q: Tensor, halo: int, rho: Tensor, domain: Domain) -> Tensor:
        """Adiabatic force ``-dV/dq - Tr[rho dH/dq]`` on the owned cells; collective.

        ``ghosted_q``: coordinates with ``halo >= reach`` ghosts; ``rho``: real, ``[*batch, *cells, len(pattern)]``, or its
        diagonal alone, zero on bonds beyond an open edge.
        """
        return self.electronic_force(ghosted_q, halo, rho, domain) + self.classical_force(ghosted_q, halo, domain)

    def electronic_force(self, ghosted_q: Tensor, halo: int, rho: Tensor, domain: Domain) -> Tensor:
        """``-Tr[rho dH/dq]`` on the owned cells, arguments as of :meth:`force`; collective."""
        weight = rho.new_full((rho.shape[-1],), 2.0)  # a bond stands for both of its directions
        weight[: self.states] = 1.0
        return _minus_gradient(
            ghosted_q, halo, domain, lambda q: (self.matrix(q, halo)[..., : rho.shape[-1]] * (weight * rho)).sum()
        )

    def classical_force(self, ghosted_q: Tensor, halo: int, domain: Domain) -> Tensor:
        """``-dV/dq`` on the owned cells; collective."""
        return _minus_gradient(ghosted_q, halo, domain, lambda q: self.energy(q, halo).sum())

    def density(self, electronic_force: Tensor) -> Tensor:
        """Density that belongs to an electronic force; for those that ``tells_density``."""
        raise ConfigError(
            f"the force of the {self.name} Hamiltonian does not tell its density: write density and set tells_density, or use "
            "a model that predicts the density"
        )


def _minus_gradient(ghosted_q: Tensor, halo: int, domain: Domain, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Minus the gradient of a sum over the lattice, ``function`` being the share of this rank."""
    import torch

    variable = ghosted_q.detach().requires_grad_()
    with torch.enable_grad():
        value = function(variable)
        if not value.requires_grad:  # nothing in it moves with q
            return torch.zeros_like(domain.crop(ghosted_q, halo))
        (gradient,) = torch.autograd.grad(value, variable)
    return -domain.crop(domain.accumulate(gradient.contiguous(), halo), halo)


def ends(ghosted: Tensor, halo: int, bond: Bond) -> tuple[Tensor, Tensor]:
    """Coordinates at the two ends of a bond, ``[*batch, *cells, components]`` each."""
    here = displaced(ghosted, halo, (0,) * len(bond.offset))
    return here[..., bond.source, :], displaced(ghosted, halo, bond.offset)[..., bond.target, :]


def joined(*parts: Tensor) -> Tensor:
    """Numbers of each cell behind one another, ``[*batch, *cells, numbers]``."""
    import torch

    return torch.cat(parts, dim=-1)
