"""Spinless Holstein model: electrons on a lattice, one classical coordinate on each site.

    H(q) = -t sum_<ij> (c_i^+ c_j + h.c.) - g sum_i n_i Q_i
    V(q) = sum_i (g Q_i / 2 + k Q_i^2 / 2) + kappa sum_<ij> Q_i Q_j

so that ``F_i = g (n_i - 1/2) - k Q_i - kappa sum_{j in nn(i)} Q_j``.  Source: arXiv 2601.04104.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Bond, Lattice
from hpc_holstein.keys import key
from hpc_holstein.lattice._neighbour_sums import neighbour_sums

if TYPE_CHECKING:
    from torch import Tensor

_FLAT = 1e-12  # a stiffness that is zero but for round-off, in units of k and kappa
_Parameter = Annotated[float, Field(ge=-1e6, le=1e6)]  # far beyond any material, and squares stay finite


@dataclass(frozen=True)
class Options:
    """Parameters, in units of the nearest-neighbour hopping ``t_nn = 1`` and the lattice constant ``a``."""

    t: Annotated[_Parameter, key("hopping between nearest neighbours [t_nn]", "hopping", "t_nn", "tnn", "t1")] = 1.0
    g: Annotated[_Parameter, key("electron-lattice coupling [t_nn/a]", "coupling", "electron_phonon_coupling", "g_ep")] = 3.5
    k: Annotated[_Parameter, key("stiffness of a site [t_nn/a^2]", "stiffness", "spring_constant", "force_constant")] = 1.0
    kappa: Annotated[_Parameter, key("elastic coupling of nearest neighbours [t_nn/a^2]", "elastic_coupling")] = 0.18


class Holstein:
    """The Holstein model on any lattice with nearest-neighbour bonds; implements :class:`interfaces.Hamiltonian`."""

    name = "holstein"
    components = 1

    def __init__(self, lattice: Lattice, options: Options) -> None:
        if options.g == 0:
            raise ConfigError(
                "g = 0 decouples electrons and lattice, so the shifted field Q + mu/g does not exist: give g != 0"
            )
        self.lattice = lattice
        self.options = options
        self._bonds = lattice.bonds(1)
        on_site = tuple(Bond(b, b, (0,) * len(lattice.extent)) for b in range(len(lattice.basis)))
        self.pattern = on_site + self._bonds
        self.reach = max(abs(step) for bond in self._bonds for step in bond.offset)

    @property
    def parameters(self) -> dict[str, float]:
        """Name and value of every parameter, as model cards and data files record them."""
        return asdict(self.options)

    @property
    def stiffness(self) -> tuple[float, float]:
        """Lowest and highest eigenvalue of the Hessian of ``V`` on this lattice, ``k + kappa s`` [t_nn/a^2].

        ``s`` are the eigenvalues of the sum over the nearest neighbours, -4 to 4 on the infinite square lattice.
        """
        ends = [self.options.k + self.options.kappa * s for s in neighbour_sums(self.lattice)]
        return min(ends), max(ends)

    def require_ground_state(self) -> None:
        """Raise ConfigError where ``V`` does not grow faster than the ``g |Q|`` of the electrons: no lower bound."""
        k, kappa, (lowest, _) = self.options.k, self.options.kappa, self.stiffness
        if lowest > _FLAT * (abs(k) + abs(kappa)):
            return
        cells = "x".join(map(str, self.lattice.extent))
        raise ConfigError(
            f"hamiltonian.k = {k:g} with kappa = {kappa:g} has no ground state: the softest mode of the {cells} "
            f"{self.lattice.name} lattice has the stiffness {min(lowest, 0.0):.3g} t_nn/a^2, so coordinates would grow without "
            f"bound; give k > {k - lowest:g} or a smaller |kappa|"
        )

    def entries(self, q: Tensor) -> Tensor:
        """Matrix elements on the pattern, ``[*batch, *cells, len(pattern)]``: ``-g Q`` on site, ``-t`` on bonds."""
        on_site = -self.options.g * q[..., 0]
        hopping = q.new_full((*q.shape[:-2], len(self._bonds)), -self.options.t)
        import torch  # here: a configuration is checked without it

        return torch.cat([on_site, hopping], dim=-1)

    def pull_back(self, q: Tensor, rho: Tensor) -> Tensor:
        """Electronic force ``-Tr[rho dH/dq] = g n_i``; ``rho`` on the pattern (or its on-site part), real.

        ``rho`` ``[*batch, *cells, >= basis]`` -> ``[*batch, *cells, basis, 1]``.
        """
        return self.options.g * rho[..., : q.shape[-2]].unsqueeze(-1)

    def density(self, q: Tensor, electronic_force: Tensor) -> Tensor:
        """Density that belongs to an electronic force: the inverse of :meth:`pull_back`."""
        return (electronic_force / self.options.g)[..., 0]

    def classical(self, ghosted_q: Tensor, halo: int) -> tuple[Tensor, Tensor]:
        """Energy of each cell and force ``-dV/dq`` of the classical potential.

        ``ghosted_q`` carries ``halo >= reach`` ghost cells; returns ``[*batch, *cells]`` (each bond counted in the cell
        it starts from) and ``[*batch, *cells, basis, 1]``.
        """
        g, k, kappa = self.options.g, self.options.k, self.options.kappa
        q = self._shifted(ghosted_q, halo, (0,) * len(self.lattice.extent))
        energy = 0.5 * g * q + 0.5 * k * q.square()
        force = -0.5 * g - k * q
        for bond in self._bonds:
            s, t = bond.source, bond.target
            ahead = self._shifted(ghosted_q, halo, bond.offset)[..., t, :]
            behind = self._shifted(ghosted_q, halo, tuple(-step for step in bond.offset))[..., s, :]
            energy[..., s, :] += kappa * q[..., s, :] * ahead
            force[..., s, :] -= kappa * ahead
            force[..., t, :] -= kappa * behind
        return energy.sum(dim=(-2, -1)), force

    def _shifted(self, ghosted: Tensor, halo: int, offset: tuple[int, ...]) -> Tensor:
        """View of the owned cells displaced by ``offset``."""
        axes = len(offset)
        for axis, step in enumerate(offset):
            dim = ghosted.ndim - 2 - axes + axis
            ghosted = ghosted.narrow(dim, halo + step, ghosted.shape[dim] - 2 * halo)
        return ghosted


def build(options: Options, lattice: Lattice) -> Holstein:
    """The Holstein model with ``options`` on ``lattice``."""
    return Holstein(lattice, options)
