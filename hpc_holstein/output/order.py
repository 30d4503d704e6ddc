"""Scalars of the CDW order of a state: those that a run records, and the same of a stored snapshot."""

from __future__ import annotations

from torch import Tensor

from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain
from hpc_holstein.output import observables
from hpc_holstein.output.domain_lengths import DomainLengths


class OrderScalars:
    """Order parameters, walls and, on a periodic lattice, domain lengths of the density and the coordinates of a state.

    Collective to make.  ``lengths`` is None on a lattice with open edges.
    """

    def __init__(self, domain: Domain, transport: Transport) -> None:
        self._domain = domain
        lattice = domain.lattice
        self.lengths = DomainLengths(domain, transport, observables.has_real_order(lattice)) if all(lattice.periodic) else None

    def __call__(self, density: Tensor, q: Tensor) -> dict[str, float]:
        """The values by their names in :data:`output.series.SERIES`, the same on all ranks; collective.

        ``density``, ``q``: owned, ``[*cells, basis]``, in any precision; computed in float64.
        """
        difference = observables.owned_difference(density.double(), self._domain)
        phi = observables.ordered(difference, self._domain)
        phi_q = observables.owned_local_order(q.double(), self._domain)
        found = {
            "order_parameter": observables.owned_order_parameter(phi, self._domain),
            "order_parameter_q": observables.owned_order_parameter(phi_q, self._domain),
            "domain_wall_density": observables.owned_wall_density(difference, self._domain),
        }
        if self.lengths is not None:
            found |= {f"domain_length_{name}": length for name, length in self.lengths(phi[..., 0]).items()}
        return {name: float(value) for name, value in found.items()}
