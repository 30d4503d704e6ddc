"""An energy-conserving network on the ranks of MPI: forces, energies and trajectories of one rank, on every rank grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import execute
from mpi4py import MPI

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import make_card, save_model
from hpc_holstein.network.models import enn_energy
from hpc_holstein.network.models._enn_energy import EnnEnergy

pytestmark = pytest.mark.mpi

SIZE = MPI.COMM_WORLD.Get_size()
GRIDS = [(rows, SIZE // rows) for rows in range(1, SIZE + 1) if SIZE % rows == 0]
LATTICE = square.build((22, 18))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("canonical", kT=0.1)
RUN = ["run", "--preset", "paper-2601.04104", "--force", "model.safetensors", "--lattice", "22x18", "--steps", 6]
CADENCE = ["--set", "output.snapshot_every=3", "--set", "output.observables_every=2"]


def network() -> EnnEnergy:
    """Weights as where training starts, from one seed on all ranks."""
    torch.manual_seed(7)
    return enn_energy.build(enn_energy.Options(copies=1, levels=4), LATTICE).double()


def forces(transport: Transport, grid: tuple[int, int] | None, q: torch.Tensor) -> tuple[Any, ForceResult]:
    """Tile of this rank, and the forces of a step after the first."""
    domain = CartesianDomain(LATTICE, transport, grid=grid)
    provider = NeuralForces(network(), HAMILTONIAN, domain, ENSEMBLE)
    tile = tuple(slice(*bounds) for bounds in domain.owned)
    mine = q[tile].contiguous()
    first = provider(State.at_rest(mine))
    return tile, provider(State(q=mine + 0.01, velocity=mine, forces=first))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_forces_and_energy_are_those_of_one_rank(transport: MPITransport, grid: tuple[int, int]) -> None:
    """The halo is as wide as the force reaches, so no gradient is sent back."""
    q = 2 * torch.randn(22, 18, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, alone = forces(SerialTransport(), None, q)
    tile, shared = forces(transport, grid, q)
    torch.testing.assert_close(shared.force, alone.force[tile], rtol=0, atol=1e-10)
    assert alone.grand_potential is not None
    assert shared.grand_potential is not None
    torch.testing.assert_close(shared.grand_potential, alone.grand_potential, rtol=0, atol=1e-9)


def contents(folder: str) -> dict[str, Any]:
    with h5py.File(f"{folder}/trajectory.h5") as file:
        return {name: data[...] for name, data in file.items() if isinstance(data, h5py.Dataset)}


def test_a_run_is_that_of_one_rank(transport: MPITransport, together: Path) -> None:
    """In float64 to round-off; the energies of the series are numbers."""
    if transport.rank == 0:
        options = enn_energy.Options(copies=1, levels=4)
        card = make_card(network(), "enn_energy", options, HAMILTONIAN, LATTICE, ENSEMBLE, data_hash="", seed=7, metrics={})
        save_model(together / "model.safetensors", network(), card)
    assert transport.all_arrive(50)
    how = [*RUN, *CADENCE, "--dtype", "float64"]
    execute(transport, *how, "--output", "many")
    if transport.rank == 0:
        execute(SerialTransport(), *how, "--output", "one")
        one, many = contents("one"), contents("many")
        assert one.keys() == many.keys()
        total = next(name for name in one if name.endswith("total_energy"))
        assert np.isfinite(one[total]).all()
        for name, value in one.items():
            np.testing.assert_allclose(value, many[name], rtol=1e-9, atol=1e-9, err_msg=name)
    assert transport.all_arrive(50)
