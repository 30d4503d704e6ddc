"""Runs on lattices of any dimension, of several sites a cell, of vector coordinates: what their files hold, and restarts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import execute

from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.storage.trajectory import open_trajectory

SYSTEMS = {
    ("chain", "holstein"): ([10], ("x",), False),
    ("triangular", "holstein"): ([6, 6], ("y", "x"), True),
    ("kagome", "peierls"): ([4, 4], ("y", "x", "site", "component"), False),
    ("cubic", "peierls"): ([4, 2, 4], ("z", "y", "x", "component"), True),
}
"""Lattice and Hamiltonian, extent, axes of the coordinates in files, if the edges are periodic."""


def run(transport: Transport, folder: Path, system: tuple[str, str], steps: int, *more: str) -> None:
    extent, _, periodic = SYSTEMS[system]
    settings = {
        "lattice.kind": system[0],
        "lattice.extent": extent,
        "lattice.periodic": str([periodic] * len(extent)).lower(),
        "hamiltonian.kind": system[1],
        "ensemble.filling": 0.4,
        "initial.q_std": 0.2,
        "output.snapshot_every": 2,
        "output.observables_every": 2,
        **dict(assignment.split("=") for assignment in more),
    }
    assignments = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    preset = ["run", "--preset", "paper-2601.04104", *assignments, "--force", "exact"]
    execute(transport, *preset, "--steps", steps, "--output", folder)


@pytest.mark.parametrize("system", SYSTEMS, ids="-".join)
def test_a_run_is_stored_on_its_axes_and_restarted_on_ranks(system: tuple[str, str], tmp_path: Path) -> None:
    extent, dims, _ = SYSTEMS[system]
    run(SerialTransport(), tmp_path / "whole", system, 4)
    run(SerialTransport(), tmp_path / "pieces", system, 2)
    run_in_process(2, lambda transport: run(transport, tmp_path / "pieces", system, 4))
    run_in_process(2, lambda transport: run(transport, tmp_path / "tiles", system, 4, "output.writer=per-rank"))
    with h5py.File(tmp_path / "whole" / "trajectory.h5") as file:
        for name, axes in (("q", dims), ("velocity", dims), ("density", [d for d in dims if d != "component"])):
            assert [axis[0].name for axis in file[name].dims] == [f"/{axis}" for axis in ("time", *axes)]
        assert file["q"].shape[: len(extent) + 1] == (3, *extent)
    with open_trajectory(tmp_path / "whole" / "trajectory.h5") as whole:
        wanted = [whole.snapshot(index) for index in range(3)]
    for folder in ("pieces", "tiles"):
        with open_trajectory(tmp_path / folder / "trajectory.h5") as found:
            for index, snapshot in enumerate(wanted):
                there = found.snapshot(index)
                for name in ("q", "velocity", "density"):
                    np.testing.assert_allclose(getattr(there, name), getattr(snapshot, name), rtol=0, atol=1e-12)
