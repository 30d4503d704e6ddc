"""Kill, fill and damage: every fault ends within seconds and with the reason, and nothing that was written is lost.

After each one the same command goes on from the last checkpoint that was there, and the trajectory is that of a run that was
never disturbed, bit for bit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from injected import AtCall, Ended, command

from hpc_holstein.errors import DataError
from hpc_holstein.network.packaged import default_model_path
from hpc_holstein.output import checkpoint
from hpc_holstein.storage.trajectory import is_trajectory, open_trajectory

pytestmark = pytest.mark.faults

STEPS, EVERY = 240, 20
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SECONDS = 20.0  # in which everything ends


def arguments(
    output: str, steps: int = STEPS, force: str = "atomic", lattice: str = "12x12", writer: str = "gather"
) -> list[str]:
    settings = [f"output.checkpoint_every={EVERY}", "output.snapshot_every=7", "output.observables_every=3"]
    settings.append(f"output.writer={writer}")
    given = ["run", "--preset", "paper-2601.04104", "--lattice", lattice, "--force", force, "--steps", str(steps)]
    given += ["--output", output, "--set", "ensemble.kind=grand-canonical"]
    return [*given, *(item for setting in settings for item in ("--set", setting))]


class Reference:
    """A run that nothing disturbed."""

    def __init__(self, folder: Path) -> None:
        assert command(folder, arguments("first")).code == 0  # imports everything
        ended = command(folder, arguments("whole"))
        assert ended.code == 0, ended.told
        self.seconds = ended.seconds
        with h5py.File(folder / "whole" / "trajectory.h5") as file:
            self.contents = {name: dataset[...] for name, dataset in file.items() if name != "timing"}

    def require_equal(self, path: Path, atol: float = 0.0) -> None:
        with h5py.File(path) as file:
            assert set(file) - {"timing"} == set(self.contents)
            for name, expected in self.contents.items():
                np.testing.assert_allclose(file[name][...], expected, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


def last_checkpoint(run: Path) -> int | None:
    """Its step; every checkpoint that has its name is whole."""
    paths = checkpoint.listed(run / "checkpoints")
    return max((checkpoint.read(path).step for path in paths), default=None)


def require_rows(run: Path, step: int) -> None:
    """As the file stands, the rows up to a checkpoint are there."""
    if step > 0:
        with open_trajectory(run / "trajectory.h5") as trajectory:
            kept = trajectory.steps[trajectory.steps <= step]
            assert list(kept) == [*range(0, step + 1, 7), *([STEPS] if step == STEPS else [])]
            for index in range(len(kept)):
                trajectory.snapshot(index)
            trajectory.series()


def go_on(folder: Path, reference: Reference, atol: float = 0.0, writer: str = "gather") -> Ended:
    """The same command, which ends the run from where its last checkpoint was."""
    step = last_checkpoint(folder / "r")
    if step is not None:
        require_rows(folder / "r", step)
    ended = command(folder, arguments("r", writer=writer))
    assert ended.code == 0, ended.told
    finished = "the run in r is finished" in ended.told
    assert finished or ("continued at step" in ended.told) == bool(step)
    assert finished or not step or f"continued at step {step}\n" in ended.told
    reference.require_equal(folder / "r" / "trajectory.h5", atol)
    assert last_checkpoint(folder / "r") == STEPS
    assert not list((folder / "r").glob("**/.*"))
    return ended


WRITERS = [("gather", seed) for seed in range(24)] + [("per-rank", seed) for seed in range(24, 44)]


@pytest.mark.parametrize(("writer", "seed"), WRITERS)
def test_killed_at_any_moment(tmp_path: Path, reference: Reference, writer: str, seed: int) -> None:
    moment = random.Random(seed).uniform(0.1, 1.1) * reference.seconds
    ended = command(tmp_path, arguments("r", writer=writer), moment)
    assert ended.code in (-9, 0)
    go_on(tmp_path, reference, writer=writer)


@pytest.mark.parametrize(("writer", "seed"), WRITERS)
def test_killed_while_it_writes(tmp_path: Path, reference: Reference, writer: str, seed: int) -> None:
    """Within a commit of the trajectory, between it and the checkpoint, while a checkpoint is renamed, before old ones go."""
    number = random.Random(seed).randint(1, 220)
    ended = command(tmp_path, arguments("r", writer=writer), AtCall(number, torn=bool(seed % 2)))
    assert ended.code in (-9, 0)
    go_on(tmp_path, reference, writer=writer)


@pytest.mark.parametrize(("writer", "seed"), WRITERS[18:30])
def test_killed_again_and_again(tmp_path: Path, reference: Reference, writer: str, seed: int) -> None:
    """While it runs, while it opens what an earlier kill left, and while it writes."""
    chance = random.Random(100 + seed)
    faults: list[AtCall | float] = [chance.uniform(0.3, 0.9) * reference.seconds, AtCall(chance.randint(1, 12), True)]
    faults += [AtCall(chance.randint(1, 60)), chance.uniform(0.1, 0.5) * reference.seconds]
    before = 0
    for fault in faults:
        command(tmp_path, arguments("r", writer=writer), fault)
        step = last_checkpoint(tmp_path / "r") or 0
        assert step >= before
        before = step
    go_on(tmp_path, reference, writer=writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("seed", range(2))
def test_asked_to_stop(tmp_path: Path, reference: Reference, number: signal.Signals, seed: int) -> None:
    """At any moment, twice: a checkpoint of that step, the exit code of a run that is not finished, and no row lost."""
    chance, endless, before = random.Random(150 + seed), arguments("r", 10**6), -1
    for _ in range(2):
        ended = command(tmp_path, endless, reference.seconds * chance.uniform(0.8, 1.6), number)
        assert ended.code == 75, ended.told
        step = last_checkpoint(tmp_path / "r")
        assert step is not None
        assert step > before
        assert f"stopped at step {step} of {10**6} because {number.name} arrived: the same command continues" in ended.told
        assert before < 0 or f"continued at step {before}\n" in ended.told
        before = step
    with open_trajectory(tmp_path / "r" / "trajectory.h5") as trajectory:
        assert list(trajectory.steps) == list(range(0, before + 1, 7))
        for index in range(min(len(trajectory), STEPS // 7 + 1)):
            np.testing.assert_array_equal(trajectory.snapshot(index).q, reference.contents["q"][index])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, resized by the test."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("kilobytes", [40, 70, 100, 130, 160, 190, 220])
def test_a_full_disk(small_disk: Path, tmp_path: Path, reference: Reference, kilobytes: int) -> None:
    """It ends in one sentence, what is there is readable, and with more space the run goes on."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
    (small_disk / "told.txt").symlink_to(tmp_path / "told.txt")
    ended = command(small_disk, arguments("r"))
    assert ended.code == 2, ended.told
    assert "No space left on device" in ended.told
    assert "Traceback" not in ended.told
    assert ended.told.count("error:") == 1
    assert ended.seconds < SECONDS
    last_checkpoint(small_disk / "r")
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    go_on(small_disk, reference)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut off, bytes flipped, or a block of zeros."""
    kind = chance.choice(["cut", "flip", "zeros"])
    if kind == "cut":
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    start = chance.randrange(len(content))
    size = min(1 if kind == "flip" else 512, len(content) - start)
    for index in range(start, start + size):
        changed[index] = changed[index] ^ (1 << chance.randrange(8)) if kind == "flip" else 0
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_checkpoint(tmp_path: Path, reference: Reference, seed: int) -> None:
    chance = random.Random(200 + seed)
    command(tmp_path, arguments("r", 130))
    *_, before, last = checkpoint.listed(tmp_path / "r" / "checkpoints")
    content = last.read_bytes()
    while (changed := damaged(content, chance)) == content:
        pass
    last.write_bytes(changed)
    ended = command(tmp_path, arguments("r"))
    assert ended.code == 0, ended.told
    assert (
        f"{last.name} is truncated or damaged (its checksum is wrong): going on from step {int(before.stem[5:])}" in ended.told
    )
    reference.require_equal(tmp_path / "r" / "trajectory.h5")


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_trajectory(tmp_path: Path, reference: Reference, seed: int) -> None:
    """The run refuses it and goes on in a new file, or it goes on; no wrong number is ever read without a complaint."""
    chance = random.Random(300 + seed)
    command(tmp_path, arguments("r", 130))
    path = tmp_path / "r" / "trajectory.h5"
    path.write_bytes(damaged(path.read_bytes(), chance))
    ended = command(tmp_path, arguments("r"))
    assert "Traceback" not in ended.told
    assert ended.seconds < SECONDS
    if ended.code == 2:
        assert "trajectory.h5 is damaged" in ended.told
        assert ended.told.count("error:") == 1
        path.rename(tmp_path / "r" / "damaged.h5")
        assert command(tmp_path, arguments("r")).code == 0
    assert last_checkpoint(tmp_path / "r") == STEPS
    for file in (tmp_path / "r").glob("*.h5"):
        if is_trajectory(file):
            require_right_or_refused(file, reference)


def require_right_or_refused(path: Path, reference: Reference) -> None:
    expected = {int(step): index for index, step in enumerate(reference.contents["step"])}
    try:
        with open_trajectory(path) as trajectory:
            for index, step in enumerate(trajectory.steps):
                try:
                    snapshot = trajectory.snapshot(index)
                except DataError:
                    continue
                if int(step) in expected:  # not the row that an earlier end of the run wrote
                    np.testing.assert_array_equal(snapshot.q, reference.contents["q"][expected[int(step)]])
    except DataError:
        pass


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_model(tmp_path: Path, seed: int) -> None:
    chance = random.Random(400 + seed)
    model = tmp_path / "m.safetensors"
    model.write_bytes(default_model_path().read_bytes())
    canonical = ["--set", "ensemble.kind=canonical"]
    assert command(tmp_path, [*arguments("r", 20, "m.safetensors"), *canonical]).code == 0
    before = (tmp_path / "r" / "trajectory.h5").read_bytes()
    model.write_bytes(damaged(model.read_bytes(), chance))
    ended = command(tmp_path, [*arguments("r", 40, "m.safetensors"), *canonical])
    assert ended.code == 2, ended.told
    assert "m.safetensors" in ended.told or "SHA-256" in ended.told
    assert ended.told.count("\n") == 1
    assert (tmp_path / "r" / "trajectory.h5").read_bytes() == before


@pytest.mark.parametrize("writer", ["gather", "per-rank"])
@pytest.mark.parametrize("kind", ["kill", "raise"])
@pytest.mark.parametrize("seed", range(3))
def test_one_rank_fails(tmp_path: Path, reference: Reference, kind: str, seed: int, writer: str) -> None:
    """All ranks end at once, and one rank alone goes on with the run of two."""
    chance = random.Random(500 + seed)
    rank, number = chance.randrange(2), chance.randint(30, STEPS)
    assert MPIRUN is not None, "there is no mpirun: install the extra mpi, or an MPI library"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    start = [MPIRUN, "-n", "2", sys.executable, str(root / "tests" / "injected.py"), str(rank), str(number), kind]
    done = subprocess.run(
        [*start, *arguments("r", writer=writer)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode not in (0, 2, 75)
    if kind == "raise":
        assert "RuntimeError: injected" in done.stderr
        assert f"rank {rank} of 2: ending all ranks" in done.stderr
    assert last_checkpoint(tmp_path / "r") == (number - 2) // EVERY * EVERY
    go_on(tmp_path, reference, atol=1e-10, writer=writer)
