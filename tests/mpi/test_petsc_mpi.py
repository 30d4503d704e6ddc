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
EXTENT = (18, 20)  # tiles of several sizes


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
def alone(ensemble: Ensemble, tolerance: float) -> ForceResult:
    return forces(SerialTransport(), ensemble, tolerance=tolerance)(State.at_rest(hot()))


@pytest.mark.parametrize(
    ("distribute", "ensemble", "tolerance"),
    [("poles", GRAND_CANONICAL, 1e-6), ("poles", CANONICAL, 1e-6), ("lattice", CANONICAL, 1e-2)],
    ids=["poles-grand-canonical", "poles-canonical", "lattice-canonical"],
)
def test_ranks_agree_with_one(transport: MPITransport, distribute: Any, ensemble: Ensemble, tolerance: float) -> None:
    """To round-off where each has the whole matrix, to the tolerance where they iterate together."""
    serial = alone(ensemble, tolerance)
    result, tile = on_tile(forces(transport, ensemble, distribute=distribute, tolerance=tolerance), hot())
    enough = 1e-10 if distribute == "poles" else tolerance
    assert torch.allclose(result.force, serial.force[tile], atol=enough, rtol=0)
    assert float(result.chemical_potential) == pytest.approx(float(serial.chemical_potential), abs=enough)
    assert float(result.grand_potential) == pytest.approx(float(serial.grand_potential), abs=360 * enough)
    assert (result.info["iterations"] > result.info["right_hand_sides"]) == (distribute == "lattice")


@pytest.mark.parametrize("distribute", ["poles", "lattice"])
def test_sampled_sites(transport: MPITransport, distribute: Any) -> None:
    """Each by its owner, all of them together the sample."""
    result, tile = on_tile(forces(transport, GRAND_CANONICAL, distribute=distribute, sites=6), hot())
    kept = ~torch.isnan(result.force)
    assert sum(transport.allgather(int(kept.sum()))) == 6
    assert torch.allclose(result.force[kept], alone(GRAND_CANONICAL, 1e-6).force[tile][kept], atol=1e-6, rtol=0)


def test_other_solvers_of_several_ranks(transport: MPITransport) -> None:
    options = "-ksp_type bcgs -pc_type bjacobi -sub_pc_type ilu"
    given = forces(transport, GRAND_CANONICAL, distribute="lattice", sites=3, petsc=options)
    default = forces(transport, GRAND_CANONICAL, distribute="lattice", sites=3)
    (one, _), (other, _) = on_tile(given, hot()), on_tile(default, hot())
    assert torch.allclose(one.force, other.force, atol=1e-6, rtol=0, equal_nan=True)
    assert one.info["iterations"] != other.info["iterations"]


@pytest.mark.parametrize("distribute", ["poles", "lattice"])
@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ("-ksp_type gmres -pc_type none -ksp_max_it 2", SpectrumError, "DIVERGED_MAX_IT after 2 iterations"),
        ("-ksp_rtoll 1e-9", ConfigError, "'-ksp_rtoll' means nothing"),
        ("-pc_type hypre", ConfigError, "refuses to solve with petsc = '-pc_type hypre'"),
    ],
)
def test_errors_are_those_of_all_ranks(
    transport: MPITransport, distribute: Any, options: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        on_tile(forces(transport, GRAND_CANONICAL, distribute=distribute, sites=2, petsc=options), hot())
    transport.barrier()


def test_one_coordinate_that_is_not_finite(transport: MPITransport) -> None:
    q = hot()
    q[0, 0] = torch.inf  # on one rank alone
    with pytest.raises(SpectrumError, match="1 coordinates at step 0"):
        on_tile(forces(transport, CANONICAL), q)
    transport.barrier()
