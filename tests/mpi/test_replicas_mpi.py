"""Replicas on the ranks of MPI: each is the run of its seed on as many ranks, bit for bit, and ends by itself."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import execute, write_small_network
from mpi4py import MPI

from hpc_holstein.cli import parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import MPITransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.simulation import StopSignals

pytestmark = pytest.mark.mpi

SIZE = MPI.COMM_WORLD.Get_size()
GIVEN = ["run", "--preset", "paper-2601.04104", "--lattice", "12x12", "--force", "small.safetensors", "--seed", "5"]
GIVEN += ["--set", "output.observables_every=4"]


def start(transport: MPITransport, *arguments: object) -> int:
    args = parser().parse_args([*GIVEN, *map(str, arguments)])
    return int(run.execute(args, Session.of(transport)))


@pytest.fixture
def model(transport: MPITransport, together: Path) -> Path:
    if transport.rank == 0:
        write_small_network(together / "small.safetensors")
    transport.barrier()
    return together


def fields(folder: Path) -> dict[str, Any]:
    with h5py.File(folder / "trajectory.h5") as file:
        return {name: file[name][...] for name in ("q", "velocity") if name in file}


@pytest.mark.parametrize(
    ("count", "grid"),
    [(SIZE, None), (2 * SIZE, None), (max(2, SIZE // 2), None), (3, f"{SIZE}x1")],
    ids=["one-rank-each", "together-on-a-rank", "several-ranks-each", "together-on-all-ranks"],
)
def test_replicas_are_the_runs_of_their_seeds(transport: MPITransport, model: Path, count: int, grid: str | None) -> None:
    """Also when stopped half-way: the same command goes on with each."""
    given = ["--deterministic", *(["--grid", grid] if grid else [])]
    assert start(transport, *given, "--steps", "6", "--replicas", count, "--output", "all") == 0
    assert start(transport, *given, "--steps", "10", "--replicas", count, "--output", "all") == 0
    ranks = SIZE if grid else max(1, SIZE // count)
    group = transport.split(transport.rank // ranks)
    for replica in range(count):
        if transport.rank // ranks == replica % (SIZE // ranks):
            start(group, "--deterministic", "--steps", "10", "--seed", 5 + replica, "--output", f"single-{replica}")
    transport.barrier()
    if transport.rank == 0:
        seen = [fields(model / "all" / f"replica-{replica:04d}") for replica in range(count)]
        for replica, found in enumerate(seen):
            expected = fields(model / f"single-{replica}")
            assert expected.keys() == found.keys() == {"q", "velocity"}
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)
        assert not np.array_equal(seen[0]["q"], seen[1]["q"])
        told = json.loads((model / "all" / "replicas.json").read_text())["replicas"]
        assert [entry["seed"] for entry in told] == [5 + replica for replica in range(count)]
        assert {(entry["exit_code"], entry["summary"]["steps"]) for entry in told} == {(0, 10)}
        together = count if grid else max(1, count // SIZE)
        assert {entry["summary"]["runs_together"] for entry in told} == {together}
    transport.barrier()


def test_an_error_of_one_replica_ends_it_alone(transport: MPITransport, model: Path) -> None:
    if transport.rank == 0:
        (model / "all" / "replica-0001").mkdir(parents=True)
        (model / "all" / "replica-0001" / "trajectory.h5").write_text("precious")
    transport.barrier()
    assert start(transport, "--steps", "4", "--replicas", SIZE, "--output", "all") == 2
    if transport.rank == 0:
        told = json.loads((model / "all" / "replicas.json").read_text())["replicas"]
        assert [entry["exit_code"] for entry in told] == [0, 2, *[0] * (SIZE - 2)]
        assert "exists already" in told[1]["error"]
        assert (model / "all" / "replica-0001" / "trajectory.h5").read_text() == "precious"


def test_a_stop_file_above_them_stops_all(transport: MPITransport, model: Path) -> None:
    if transport.rank == 0:
        (model / "all").mkdir(parents=True)
        (model / "all" / "STOP").touch()
    transport.barrier()
    assert start(transport, "--steps", "6", "--replicas", 2 * SIZE, "--output", "all") == 75
    if transport.rank == 0:
        told = json.loads((model / "all" / "replicas.json").read_text())["replicas"]
        assert [entry["exit_code"] for entry in told] == [75] * (2 * SIZE)
        assert not (model / "all" / "STOP").exists()
    transport.barrier()
    assert start(transport, "--steps", "6", "--replicas", 2 * SIZE, "--output", "all") == 0


def test_a_signal_on_one_rank_of_a_group_stops_its_replicas(transport: MPITransport, model: Path) -> None:
    class Told(StopSignals):
        def __init__(self) -> None:
            super().__init__()
            self.arrived[signal.SIGTERM] = int(transport.rank == transport.size - 1)

    given = ["--steps", "6", "--replicas", 2, "--grid", f"{SIZE}x1", "--output", "all"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "StopSignals", Told)
        assert start(transport, *given) == 75
    if transport.rank == 0:
        told = json.loads((model / "all" / "replicas.json").read_text())["replicas"]
        assert [entry["summary"]["stopped"] for entry in told] == ["SIGTERM arrived"] * 2
    transport.barrier()
    assert start(transport, *given) == 0


def test_a_stopped_replica_is_not_finished(transport: MPITransport, model: Path) -> None:
    if transport.rank == 0:
        (model / "all" / "replica-0000").mkdir(parents=True)
        (model / "all" / "replica-0000" / "STOP").touch()
    transport.barrier()
    assert start(transport, "--steps", "6", "--replicas", 2 * SIZE, "--output", "all") == 75
    if transport.rank == 0:
        told = json.loads((model / "all" / "replicas.json").read_text())["replicas"]
        assert [entry["exit_code"] for entry in told] == [75, *[0] * (2 * SIZE - 1)]
    transport.barrier()
    assert start(transport, "--steps", "6", "--replicas", 2 * SIZE, "--output", "all") == 0


def test_what_cannot_be_shared_out_is_refused(transport: MPITransport, model: Path) -> None:
    with pytest.raises(ConfigError, match=rf"replicas = {2 * SIZE + 1} cannot share {SIZE} ranks evenly: start .* ranks"):
        execute(transport, *GIVEN, "--replicas", 2 * SIZE + 1)
    with pytest.raises(ConfigError, match=r"--restart there is the start of one run .* continue one replica alone"):
        execute(transport, *GIVEN, "--replicas", SIZE, "--restart", "there")
    with pytest.raises(ConfigError, match=r"model file gone\.safetensors does not exist"):
        execute(transport, *GIVEN, "--replicas", SIZE, "--force", "gone.safetensors")
