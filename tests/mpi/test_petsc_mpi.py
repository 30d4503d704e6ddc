"""PETSc forces on the ranks of MPI, which share the poles or the lattice: those of one rank, and errors on all ranks alike."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import petsc
from hpc_holstein.forces._petsc import PETScForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square

pytestmark = pytest.mark.mpi

GRAND_CANONICAL = Ensemble("grand-canonical", 0.1, chemical_potential=0.4)
CANONICAL = Ensemble("canonical", 0.1)
EXTENT = (10, 12)  # tiles of several sizes


def hot() -> torch.Tensor:
    return 4.0 * torch.randn(*EXTENT, 1, 1, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def forces(transport: Transport, ensemble: Ensemble, **options: Any) -> PETScForces:
    lattice = square.build(EXTENT)
    hamiltonian = holstein.build(holstein.Options(), lattice)
    return petsc.build(petsc.Options(**options), hamiltonian, CartesianDomain(lattice, transport), ensemble)


def on_tile(forces_of: PETScForces, q: torch.Tensor) -> tuple[ForceResult, tuple[slice, ...]]:
    tile = tuple(slice(*span) for span in forces_of.domain.owned)
    return forces_of(State.at_rest(q[tile].contiguous())), tile


@cache
def alone(ensemble: Ensemble) -> ForceResult:
    return forces(SerialTransport(), ensemble)(State.at_rest(hot()))


@pytest.mark.parametrize("ensemble", [GRAND_CANONICAL, CANONICAL], ids=["grand-canonical", "canonical"])
def test_ranks_agree_with_one(transport: MPITransport, ensemble: Ensemble) -> None:
    serial = alone(ensemble)
    result, tile = on_tile(forces(transport, ensemble), hot())
    assert torch.allclose(result.force, serial.force[tile], atol=1e-10, rtol=0)
    assert float(result.chemical_potential) == pytest.approx(float(serial.chemical_potential), abs=1e-10)
    assert float(result.grand_potential) == pytest.approx(float(serial.grand_potential), abs=1e-8)


def test_sampled_sites(transport: MPITransport) -> None:
    """Each by its owner, all of them together the sample."""
    result, tile = on_tile(forces(transport, GRAND_CANONICAL, sites=6), hot())
    kept = ~torch.isnan(result.force)
    assert sum(transport.allgather(int(kept.sum()))) == 6
    assert torch.allclose(result.force[kept], alone(GRAND_CANONICAL).force[tile][kept], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ("-ksp_type gmres -pc_type none -ksp_max_it 2", SpectrumError, "DIVERGED_MAX_IT after 2 iterations"),
        ("-ksp_rtoll 1e-9", ConfigError, "'-ksp_rtoll' means nothing"),
        ("-pc_type hypre", ConfigError, "refuses to solve with petsc = '-pc_type hypre'"),
    ],
)
def test_errors_are_those_of_all_ranks(transport: MPITransport, options: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        on_tile(forces(transport, GRAND_CANONICAL, sites=2, petsc=options), hot())
    transport.barrier()


def test_one_coordinate_that_is_not_finite(transport: MPITransport) -> None:
    q = hot()
    q[0, 0] = torch.inf  # on one rank alone
    with pytest.raises(SpectrumError, match="1 coordinates at step 0"):
        on_tile(forces(transport, CANONICAL), q)
    transport.barrier()
