"""Runs on the ranks of MPI, on every rank grid of that many: the trajectory and the files of one rank, and its errors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import execute, write_small_network
from mpi4py import MPI

from hpc_holstein.config import config_of_text, load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.partition import shown
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.errors import DataError, DomainError, HolsteinError, ModelError
from hpc_holstein.interfaces import State
from hpc_holstein.simulation import Recorder, Simulation, Summary

pytestmark = pytest.mark.mpi

PRESET = "paper-2601.04104"
SIZE = MPI.COMM_WORLD.Get_size()
GRIDS = [(rows, SIZE // rows) for rows in range(1, SIZE + 1) if SIZE % rows == 0]
EVEN, UNEVEN = (24, 24), (22, 26)  # tiles of one size, and of several
DYNAMICS = [
    ("verlet-ou", "canonical", EVEN),
    ("baoab", "canonical", UNEVEN),
    ("verlet-ou", "grand-canonical", UNEVEN),
    ("baoab", "grand-canonical", EVEN),
]
ROUND_OFF = 1e-11


def named(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


each_grid = pytest.mark.parametrize("grid", GRIDS, ids=named)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, transport: MPITransport) -> str:
    """The model file that rank 0 wrote."""
    path = Path()
    if transport.rank == 0:
        path = tmp_path_factory.mktemp("model") / "small.safetensors"
        write_small_network(path)
    return str(transport.bcast(path))


def run(transport: Transport, grid: tuple[int, int] | None, **changes: Any) -> tuple[State, Summary, Simulation]:
    """The last state of a run."""
    base = {"dynamics.seed": 3, "parallel.dtype": "float64", "parallel.grid": grid and list(grid)}
    base |= {"output.observables_every": 25}
    config = load_config(preset_name=PRESET, overrides={**base, **changes})
    simulation = build_simulation(config, transport, "cpu")
    record = Recorder(config.output.observables_every, simulation)
    state, summary = simulation.run(initial_state(config, simulation), config.dynamics.steps, record, [])
    return state, summary, simulation


@cache
def alone(**changes: Any) -> State:
    """The same on this rank by itself; lists arrive as tuples, so that they can be remembered."""
    return run(SerialTransport(), None, **thawed(changes))[0]


def thawed(changes: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in changes.items()}


def require_agreement(transport: Transport, grid: tuple[int, int], **changes: Any) -> Summary:
    """The tile of this rank is that of the serial run, to round-off."""
    serial = alone(**changes)
    state, summary, simulation = run(transport, grid, **thawed(changes))
    assert simulation.domain.grid == grid
    tile = tuple(slice(*span) for span in simulation.domain.owned)
    assert state.forces is not None
    assert serial.forces is not None
    assert state.step == serial.step == changes["dynamics.steps"]
    mine = (state.q, state.velocity, state.forces.density, state.forces.chemical_potential)
    whole = (serial.q[tile], serial.velocity[tile], serial.forces.density[tile], serial.forces.chemical_potential)
    for name, here, there in zip(("q", "velocity", "density", "mu"), mine, whole, strict=True):
        assert here.shape == there.shape
        difference = float((here - there).abs().max())
        assert difference <= ROUND_OFF, f"{name} differs by {difference:.1e} on rank {transport.rank}"
    return summary


@each_grid
@pytest.mark.parametrize(("scheme", "ensemble", "extent"), DYNAMICS, ids=named)
def test_a_neural_run_is_that_of_one_rank(
    transport: MPITransport, model: str, grid: tuple[int, int], scheme: str, ensemble: str, extent: tuple[int, int]
) -> None:
    force = {"force.kind": "neural", "force.model": model}
    system = {"lattice.extent": extent, "dynamics.scheme": scheme, "ensemble.kind": ensemble, "dynamics.steps": 50}
    summary = require_agreement(transport, grid, **force, **system)
    if ensemble == "canonical":
        assert summary.electron_number_drift <= 1e-13
        assert summary.observables["electron_number"] == pytest.approx(0.5, abs=1e-13)


@each_grid
def test_an_exact_run_is_that_of_one_rank(transport: MPITransport, grid: tuple[int, int]) -> None:
    summary = require_agreement(transport, grid, **{"force.kind": "exact", "lattice.extent": (8, 8), "dynamics.steps": 25})
    assert summary.electron_number_drift <= 1e-13


def test_the_trajectory_file_is_that_of_one_rank(transport: MPITransport, model: str, together: Path) -> None:
    arguments = ["run", "--preset", PRESET, "--lattice", "22x26", "--steps", "20", "--dtype", "float64", "--force", model]
    arguments += ["--set", "output.snapshot_every=5", "--set", "output.observables_every=4"]
    execute(transport, *arguments, "--output", "many")
    if transport.rank == 0:
        execute(SerialTransport(), *arguments, "--output", "one")
        require_same_file(together / "one" / "trajectory.h5", together / "many" / "trajectory.h5")
    assert transport.all_arrive(50)  # asleep, so that rank 0 has a core


def require_same_file(first: Path, second: Path) -> None:
    """Datasets but timings to round-off, attributes up to the facts of the ranks, the date and the folder."""
    with h5py.File(first) as one, h5py.File(second) as many:
        assert list(one) == list(many)
        for name in one.keys() - {"timing"}:
            assert (one[name].dtype, one[name].shape) == (many[name].dtype, many[name].shape)
            assert [one[name].attrs[key] for key in ("units", "long_name")] == [
                many[name].attrs[key] for key in ("units", "long_name")
            ]
            np.testing.assert_allclose(many[name], one[name], rtol=1e-10, atol=1e-10, equal_nan=True, err_msg=name)
        a, b = dict(one.attrs), dict(many.attrs)
        assert (a.pop("ranks"), b.pop("ranks")) == (1, SIZE)
        assert b.pop("mpi")
        configs = [config_of_text(attributes.pop("config"), {"output.folder": "same"}) for attributes in (a, b)]
        assert configs[0] == configs[1]
        for own in ("date", "run"):  # of each run
            assert a.pop(own)
            assert b.pop(own)
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize(
    ("kind", "words", "arguments"),
    [
        (DomainError, f"rank grid {SIZE + 1}x1 does not fit {SIZE} rank", ["--lattice", "24x24", "--grid", f"{SIZE + 1}x1"]),
        (ModelError, "gone.safetensors does not exist", ["--lattice", "24x24", "--force", "gone.safetensors"]),
        (DataError, "exists already", ["--lattice", "24x24", "--output", "there"]),
    ],
    ids=["grid", "model", "output"],
)
def test_every_rank_raises_the_same_error(
    transport: MPITransport, model: str, together: Path, kind: type[HolsteinError], words: str, arguments: list[str]
) -> None:
    if transport.rank == 0:
        (together / "there").mkdir()
        (together / "there" / "trajectory.h5").write_text("precious")
    with pytest.raises(kind, match=words) as caught:
        execute(transport, "run", "--preset", PRESET, "--force", model, *arguments)
    assert len(set(transport.allgather(str(caught.value)))) == 1
    assert [path.name for path in together.iterdir()] == ["there"]
    assert (together / "there" / "trajectory.h5").read_text() == "precious"
