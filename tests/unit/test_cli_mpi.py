"""Commands under mpirun: the same files as alone, and errors that end all ranks within seconds with one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from commands import execute

from hpc_holstein.domain.transport import SerialTransport

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
RUN = ["run", "--preset", "paper-2601.04104", "--lattice", "8x8", "--force", "atomic", "--steps", "10"]


def start(folder: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert MPIRUN is not None, "there is no mpirun: install the extra mpi, or an MPI library"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [MPIRUN, "-n", str(ranks), sys.executable, "-m", "hpc_holstein", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_two_ranks_write_the_trajectory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    execute(SerialTransport(), *RUN, "--output", tmp_path / "one")
    two = start(tmp_path, 2, *RUN, "--output", "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("rank grid 2x1") == 1  # only rank 0 speaks
    with (
        xr.open_dataset(tmp_path / "one" / "trajectory.h5") as one,
        xr.open_dataset(tmp_path / "two" / "trajectory.h5") as many,
    ):
        assert float(abs(one.q - many.q).max()) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "dynamics.step=3"], "did you mean 'dynamics.steps'?"),
        (["--output", "there"], "exists already"),
    ],
)
def test_an_error_is_one_line_and_code_2_on_all_ranks(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "trajectory.h5").write_text("precious")
    done = start(tmp_path, 2, *RUN, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
