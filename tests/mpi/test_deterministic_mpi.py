"""``deterministic`` on the ranks of MPI: the bits of one rank, on every rank grid, and from one number of ranks to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import write_small_network
from mpi4py import MPI

from hpc_holstein.cli import parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.output import checkpoint

pytestmark = pytest.mark.mpi

SIZE = MPI.COMM_WORLD.Get_size()
GRIDS = [f"{rows}x{SIZE // rows}" for rows in range(1, SIZE + 1) if SIZE % rows == 0]
CASES = {  # on tiles of several sizes
    "neural": ["--force", "model.safetensors", "--lattice", "46x34"],
    "neural-float64": ["--force", "model.safetensors", "--lattice", "34x30", "--dtype", "float64"],
    "atomic": ["--force", "atomic", "--lattice", "22x14", "--set", "dynamics.scheme=baoab"],
    "exact": ["--force", "exact", "--lattice", "8x10"],
}


def start(transport: Transport, output: str, steps: int, *more: str) -> None:
    cadence = ["--set", "output.snapshot_every=4", "--set", "output.observables_every=2"]
    given = ["run", "--preset", "paper-2601.04104", *cadence, "--deterministic", *more]
    args = parser().parse_args([*given, "--steps", str(steps), "--output", output])
    assert run.execute(args, Session.of(transport)) == 0


def contents(folder: str) -> dict[str, Any]:
    """Datasets of the trajectory and of the last checkpoint, and what the forces told."""
    with h5py.File(f"{folder}/trajectory.h5") as file:
        found: dict[str, Any] = {name: data[...] for name, data in file.items() if isinstance(data, h5py.Dataset)}
    stored, _ = checkpoint.newest(Path(folder) / "checkpoints")
    assert stored is not None
    return found | {f"checkpoint {name}": array for name, array in stored.arrays.items()} | {"info": stored.info}


def require_same_bits(first: str, second: str) -> None:
    one, other = contents(first), contents(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture
def model(transport: MPITransport, together: Path) -> None:
    if transport.rank == 0:
        write_small_network(together / "model.safetensors")
    assert transport.all_arrive(50)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("case", CASES)
def test_every_rank_grid_writes_the_bits_of_one_rank(transport: MPITransport, model: None, case: str, grid: str) -> None:
    start(transport, "many", 8, *CASES[case], "--grid", grid)
    if transport.rank == 0:
        start(SerialTransport(), "alone", 8, *CASES[case])
        require_same_bits("alone", "many")
    assert transport.all_arrive(50)  # asleep, so that rank 0 has a core


@pytest.mark.parametrize("first_alone", [True, False])
def test_another_number_of_ranks_goes_on_with_the_same_bits(transport: MPITransport, model: None, first_alone: bool) -> None:
    if transport.rank == 0:
        start(SerialTransport(), "whole", 16, *CASES["neural"])
    for steps, alone in ((8, first_alone), (16, not first_alone)):
        if not alone:
            start(transport, "halves", steps, *CASES["neural"])
        elif transport.rank == 0:
            start(SerialTransport(), "halves", steps, *CASES["neural"])
        assert transport.all_arrive(50)
    if transport.rank == 0:
        require_same_bits("whole", "halves")
    assert transport.all_arrive(50)
