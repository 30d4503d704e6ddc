"""A run that is interrupted goes on as if it had not been, bit for bit, and refuses what would not be the same run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import Transport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.forces._atomic import AtomicForces
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.output import checkpoint
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.storage.trajectory import open_trajectory

PRESET = "paper-2601.04104"
CADENCE = ["--set", "output.snapshot_every=5", "--set", "output.observables_every=3"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(output: str, steps: int, *more: object, lattice: str = "8x6", force: str = "atomic") -> int:
    start = ["run", "--preset", PRESET, "--lattice", lattice, "--force", force, *CADENCE]
    return main([*start, "--steps", str(steps), "--output", output, *map(str, more)])


def require_same_run(first: str, second: str) -> None:
    """Trajectories and last checkpoints are equal, bit for bit."""
    with h5py.File(f"{first}/trajectory.h5") as one, h5py.File(f"{second}/trajectory.h5") as other:
        assert list(one) == list(other)
        assert "timing" in one
        for name in one.keys() - {"timing"}:
            np.testing.assert_array_equal(one[name][...], other[name][...], err_msg=name)
    one, other = (checkpoint.newest(Path(name) / "checkpoints")[0] for name in (first, second))
    assert one is not None
    assert other is not None
    assert (one.step, one.info) == (other.step, other.info)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


@pytest.mark.parametrize(
    ("force", "lattice", "steps", "more"),
    [
        ("exact", "8x6", 14, []),
        ("neural", "12x14", 14, []),
        ("neural", "12x14", 14, ["--dtype", "float64", "--set", "dynamics.scheme=baoab"]),
        ("neural", "12x14", 14, ["--dtype", "float32"]),
        ("kpm", "8x6", 6, ["--set", "force.tolerance=1e-3"]),
        ("kpm", "8x6", 6, ["--set", "force.tolerance=1e-3", "--set", "dynamics.scheme=baoab"]),
        ("atomic", "8x6", 26, ["--set", "dynamics.scheme=baoab", "--set", "ensemble.kind=grand-canonical"]),
    ],
)
def test_two_halves_are_the_whole_bit_for_bit(force: str, lattice: str, steps: int, more: list[str]) -> None:
    assert run("whole", steps, *more, lattice=lattice, force=force) == 0
    assert run("halves", steps // 2, *more, lattice=lattice, force=force) == 0
    assert run("halves", steps, *more, lattice=lattice, force=force) == 0
    require_same_run("whole", "halves")
    summary = json.loads(Path("halves/summary.json").read_text())
    assert (summary["steps"], summary["sessions"], summary["force_calls"]) == (steps, 2, steps + 1)


@pytest.mark.parametrize("ranks", [(1, 3), (4, 1), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_checkpoint_is_read_on_any_number_of_ranks(ranks: tuple[int, int], dtype: torch.dtype) -> None:
    """Two states at once, two components."""
    shape = (2, 6, 4, 1, 2)
    whole = {name: torch.randn(shape, dtype=dtype) for name in ("q", "velocity", "force")}
    density = torch.rand(shape[:-1], dtype=dtype)
    mu = torch.tensor([0.1, -0.2], dtype=torch.float64)

    def tile(field: torch.Tensor, domain: CartesianDomain) -> torch.Tensor:
        return field[:, *(slice(*span) for span in domain.owned)]

    def save(transport: Transport) -> None:
        domain = CartesianDomain(square.build((6, 4)), transport)
        forces = ForceResult(tile(whole["force"], domain), tile(density, domain), mu, None, {"filling_slope": 1 / 3})
        state = State(tile(whole["q"], domain), tile(whole["velocity"], domain), 7, forces)
        stored = checkpoint.gathered(state, domain)
        if stored is not None:
            checkpoint.write(Path("c"), replace(stored, account={"sessions": 2}, attributes={"seed": 3, "units": "u"}), 2)

    def load(transport: Transport) -> None:
        domain = CartesianDomain(square.build((6, 4)), transport)
        stored = checkpoint.read(checkpoint.path_of(Path("c"), 7)) if transport.rank == 0 else None
        if stored is not None:
            assert (stored.account, stored.attributes["seed"]) == ({"sessions": 2}, 3)
        state = checkpoint.restored(stored, domain, transport)
        assert state.step == 7
        assert state.forces is not None
        fields = {"q": state.q, "velocity": state.velocity, "force": state.forces.force}
        for name, found in fields.items():
            assert found.dtype == dtype
            assert torch.equal(found, tile(whole[name], domain))
        assert torch.equal(state.forces.density, tile(density, domain))
        assert torch.equal(state.forces.chemical_potential, mu)
        assert state.forces.grand_potential is None
        assert state.forces.info == {"filling_slope": 1 / 3}

    run_in_process(ranks[0], save)
    run_in_process(ranks[1], load)


def test_checkpoints_come_at_their_cadence_and_the_last_ones_stay() -> None:
    every = ["--set", "output.checkpoint_every=4", "--set", "output.checkpoints_kept=3"]
    assert run("r", 22, *every) == 0
    assert [path.name for path in checkpoint.listed(Path("r/checkpoints"))] == [f"step-{step:012d}.h5" for step in (16, 20, 22)]
    stored = checkpoint.read(checkpoint.path_of(Path("r/checkpoints"), 16))
    assert stored.attributes["seed"] == 0
    assert "version.torch" in stored.attributes
    assert stored.account["force_calls"] == 17
    with h5py.File(checkpoint.path_of(Path("r/checkpoints"), 16)) as file:  # plain HDF5 behind the checksum
        assert file["velocity"].attrs["units"] == "a t_nn/hbar"
    assert list(Path("r").glob("**/.*")) == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "header"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("whole", 20) == 0
    assert run("r", 12, "--set", "output.checkpoint_every=5") == 0
    last = checkpoint.path_of(Path("r/checkpoints"), 12)
    content = bytearray(last.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "header":
        content[30] ^= 1
    last.write_bytes({"truncated": content[:-3], "empty": b""}.get(damage, bytes(content)))
    capsys.readouterr()
    assert run("r", 20) == 0
    told = capsys.readouterr().out
    assert f"checkpoint {last} is truncated or damaged (its checksum is wrong): going on from step 10" in told
    require_same_run("whole", "r")


def test_without_a_whole_checkpoint_nothing_is_touched(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("r", 6) == 0
    for path in checkpoint.listed(Path("r/checkpoints")):
        path.write_bytes(path.read_bytes()[:-1])
    before = Path("r/trajectory.h5").read_bytes()
    assert run("r", 12) == 2
    assert "no checkpoint in r/checkpoints is whole, of 2" in capsys.readouterr().err
    assert Path("r/trajectory.h5").read_bytes() == before


def test_a_finished_run_is_left_alone_and_can_be_extended(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("r", 7) == 0
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    assert run("r", 7) == 0
    assert "the run in r is finished: ask for more than its 7 steps" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before
    assert run("r", 5) == 2
    assert "dynamics.steps = 5 lies before step 7" in capsys.readouterr().err
    assert run("r", 20) == 0
    assert run("whole", 20) == 0
    require_same_run("whole", "r")  # without the row of step 7, which was the last one then


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "dynamics.dt=0.1"], "dynamics.dt = 0.05 and here it is 0.1"),
        (["--set", "hamiltonian.g=3.0"], "hamiltonian.g = 3.5 and here it is 3.0"),
        (["--set", "ensemble.kT=0.2"], "ensemble.kT = 0.1 and here it is 0.2"),
        (["--seed", "4"], "dynamics.seed = 0 and here it is 4"),
        (["--dtype", "float32"], "parallel.dtype = mixed and here it is float32"),
        (["--lattice", "6x8"], "lattice.extent = (8, 6) and here it is (6, 8)"),
        (["--force", "local"], "force.kind = atomic and here it is local"),
    ],
)
def test_another_run_is_refused(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("r", 4) == 0
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run("r", 8, *more) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "never overwritten" in told
    assert told.count("\n") == 1
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before


def test_cadences_limits_and_a_model_under_another_name_are_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    from hpc_holstein.network.packaged import default_model_path

    assert run("r", 4, lattice="12x12", force="neural") == 0
    Path("copy.safetensors").write_bytes(default_model_path().read_bytes())
    more = ["--set", "output.snapshot_every=2", "--set", "health.max_temperature=50"]
    assert run("r", 8, *more, lattice="12x12", force="copy.safetensors") == 0
    with h5py.File("r/trajectory.h5") as file:
        assert list(file["step"]) == [0, 4, 6, 8]


def test_what_no_checkpoint_belongs_to_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("r", 4) == 0
    assert run("r", 8, "--restart", "never") == 2
    assert "exists already and is never overwritten" in capsys.readouterr().err
    for path in checkpoint.listed(Path("r/checkpoints")):
        path.unlink()
    assert run("r", 8) == 2
    assert "trajectory.h5 exists already and is never overwritten" in capsys.readouterr().err


def test_a_run_goes_on_elsewhere_from_a_checkpoint_that_is_named() -> None:
    every = ["--set", "output.checkpoint_every=5"]
    assert run("whole", 20) == 0
    assert run("r", 10, *every) == 0
    assert run("folder", 20, "--restart", "r") == 0
    assert run("file", 20, "--restart", checkpoint.path_of(Path("r/checkpoints"), 5)) == 0
    assert run("file", 25, "--restart", "auto") == 0
    with h5py.File("whole/trajectory.h5") as whole, h5py.File("folder/trajectory.h5") as there:
        assert list(there["step"]) == [10, 15, 20]
        np.testing.assert_array_equal(there["q"][...], whole["q"][2:])
    with h5py.File("file/trajectory.h5") as there:
        assert list(there["step"]) == [5, 10, 15, 20, 25]
    assert main(["run", "--preset", PRESET, "--restart", "nowhere", "--output", "x"]) == 2
    assert not Path("x").exists()


def test_a_run_goes_back_to_a_checkpoint_of_its_own() -> None:
    assert run("whole", 20) == 0
    assert run("r", 12, "--set", "output.checkpoint_every=6") == 0
    assert run("r", 20, "--restart", checkpoint.path_of(Path("r/checkpoints"), 6)) == 0
    require_same_run("whole", "r")


def test_a_trajectory_that_is_damaged_missing_or_short_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("whole", 20) == 0
    assert run("r", 10) == 0
    path = Path("r/trajectory.h5")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert run("r", 20) == 2
    assert "trajectory.h5 is damaged" in capsys.readouterr().err
    assert path.read_bytes() == content[: len(content) // 2]
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        for name in ("time", "step", "q", "velocity", "density", "chemical_potential"):
            file[name].resize(1, axis=0)
    assert run("r", 20) == 2
    assert "trajectory.h5 ends before step 10" in capsys.readouterr().err
    path.rename("r/old.h5")
    assert run("r", 20) == 0
    assert "trajectory.h5 is not there: a new one starts at step 10" in capsys.readouterr().out
    with h5py.File("whole/trajectory.h5") as whole, h5py.File(path) as there:
        np.testing.assert_array_equal(there["q"][...], whole["q"][2:])


def test_a_stop_file_ends_with_a_checkpoint_and_the_same_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("whole", 20) == 0
    assert run("r", 7) == 0
    Path("r/STOP").touch()
    assert run("r", 20) == 75
    assert "stopped at step 7 of 20 because there is a file r/STOP: the same command continues it" in capsys.readouterr().out
    assert json.loads(Path("r/summary.json").read_text())["stopped"] == "there is a file r/STOP"
    assert not Path("r/STOP").exists()
    assert run("r", 20) == 0
    require_same_run("whole", "r")


def test_a_budget_that_is_used_up_stops_before_any_step() -> None:
    assert run("r", 1000, "--max-walltime", "00:00:00") == 75
    stored, _ = checkpoint.newest(Path("r/checkpoints"))
    assert stored is not None
    assert stored.step == 0
    assert run("r", 5) == 0
    assert run("bad", 5, "--max-walltime", "5 minutes") == 2


def _repelling(found: ForceResult) -> ForceResult:
    return dataclasses.replace(found, force=-1e9 * found.force)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["health.max_temperature=0.1"], "kinetic temperature .* is beyond 0.1 \\(health.max_temperature\\)"),
        (["health.max_energy=0.5"], "kinetic and classical energy .* is beyond 0.5 \\(health.max_energy\\)"),
        ([], "diverged after step .*time step smaller than dt = 0.05"),
    ],
)
def test_a_run_that_leaves_physics_ends_readable(
    more: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not more:  # forces that push the wrong way
        right = AtomicForces.__call__
        monkeypatch.setattr(AtomicForces, "__call__", lambda self, state: _repelling(right(self, state)))
    settings = [item for text in more for item in ("--set", text)]
    assert run("r", 500, *settings) == 2
    told = capsys.readouterr().err
    assert re.search(words, told), told
    assert "; the state of step 0 is kept in r/checkpoints" in told
    with open_trajectory(Path("r/trajectory.h5")) as trajectory:
        assert trajectory.steps[0] == 0
    stored, _ = checkpoint.newest(Path("r/checkpoints"))
    assert stored is not None


def test_a_folder_has_one_run_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with FolderLock(Path("r")) as lock:
        lock.acquire()
        assert run("r", 4) == 2
        assert "another run is writing to r" in capsys.readouterr().err
    assert run("r", 4) == 0


def test_a_checkpoint_that_cannot_be_written_says_so_and_leaves_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = checkpoint.Checkpoint(3, {"q": np.zeros(4), "velocity": np.zeros(4)})
    checkpoint.write(Path("c"), stored, 1)

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("hpc_holstein.output.checkpoint.os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        checkpoint.write(Path("c"), checkpoint.Checkpoint(4, stored.arrays), 1)
    assert [path.name for path in Path("c").iterdir()] == ["step-000000000003.h5"]
