"""Orders, walls and domain lengths on MPI ranks: the bits of one rank, on a skewed lattice and on one of two sites a cell."""

from __future__ import annotations

import pytest
import torch
from mpi4py import MPI

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.lattice import chain, honeycomb, triangular
from hpc_holstein.output.order import OrderScalars, default_orders


@pytest.mark.mpi
@pytest.mark.parametrize(
    "lattice",
    [triangular.build((9, 12)), honeycomb.build((6, 8)), chain.build((24,)), honeycomb.build((6, 5), (False, True))],
    ids=lambda x: f"{x.name}-{x.periodic}",
)
def test_scalars_have_the_bits_of_one_rank(lattice) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (*lattice.extent, len(lattice.basis))
    n, q = torch.rand(shape, generator=generator), torch.randn((*shape, 1), generator=generator)
    orders = default_orders(holstein.build(holstein.Options(), lattice))

    def scalars(transport: Transport) -> dict[str, float]:
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        return OrderScalars(domain, transport, orders)(n[tile].contiguous(), q[tile].contiguous())

    found = scalars(MPITransport(MPI.COMM_WORLD))
    assert len(found) == (6 if all(lattice.periodic) else 5)  # an open edge has no inverse moment
    assert repr(found) == repr(scalars(SerialTransport()))  # NaN is NaN
