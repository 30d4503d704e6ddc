"""Commands that are told to end before they are done: exit code 75, one sentence, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_holstein.cli import main
from hpc_holstein.simulation import StopSignals
from hpc_holstein.simulation.stopping import Apart, Deadline

MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
LABEL = ["label", "--lattice", "8x8", "--quenches", "3", "--per-quench", "3", "--path-force", "atomic", "--output", "a.h5"]
TRAIN = [
    "train",
    "data.h5",
    "--set",
    "model.copies=1",
    "--set",
    "model.radii=[1,0]",
    "--set",
    "model.levels=3",
    "--output",
    "m",
]


def told(folder: Path, ranks: int, number: signal.Signals, *arguments: str) -> tuple[int, str]:
    """Exit code and last line of a command that got a signal when it had said that it works."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    launch = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    command = [*launch, sys.executable, "-m", "hpc_holstein", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as work:
        assert work.stdout is not None
        assert "device cpu" in work.stdout.readline()
        work.send_signal(number)
        lines = work.stdout.read().splitlines()
    return work.returncode, lines[-1]


@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGUSR1)])
def test_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, number: signal.Signals) -> None:
    monkeypatch.chdir(tmp_path)
    long = told(tmp_path, ranks, number, *LABEL, "--quench-steps", "1000000")
    assert long == (os.EX_TEMPFAIL, f"stopped because {number.name} arrived: the same command continues it")
    assert not Path("a.h5").exists()
    assert list(Path.cwd().glob(".a.h5.quench-*.part"))
    assert not list(Path.cwd().glob("*.stop"))


def test_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["label", "--lattice", "12x12", "--random", "30", "--output", "data.h5"]) == 0
    long = told(tmp_path, 1, signal.SIGTERM, *TRAIN, "--epochs", "1000000")
    assert long == (os.EX_TEMPFAIL, "stopped because SIGTERM arrived: the same command continues it")
    assert [path.name for path in sorted(Path("m").iterdir()) if path.name != "loss.csv"] == [".training.pt"]
    assert main([*TRAIN, "--epochs", "60"]) == 0


def test_a_budget_of_time_ends_labelling_and_the_same_command_without_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [*LABEL, "--quench-steps", "20"]
    assert main([*short, "--max-walltime", "00:00:00"]) == os.EX_TEMPFAIL
    assert "stopped because the wall-clock budget is used up: the same command continues it" in capsys.readouterr().out
    assert main(short) == 0
    assert main([*short, "--output", "whole.h5"]) == 0
    with h5py.File("a.h5") as one, h5py.File("whole.h5") as other:
        assert np.array_equal(one["q"], other["q"])
        assert np.array_equal(one["force"], other["force"])
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.h5", "whole.h5"]


def test_a_command_that_calls_others_loses_no_signal_between_them() -> None:
    with StopSignals() as outer:
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert inner.reason == outer.reason == "SIGUSR1 arrived"
        with StopSignals() as later:
            assert later.reason == "SIGUSR1 arrived"
    assert StopSignals().reason is None


def test_ranks_that_work_apart_tell_each_other_by_a_file(tmp_path: Path) -> None:
    marker = tmp_path / ".a.stop"
    first, second = StopSignals(), StopSignals()
    assert Apart(second, None, marker)() is None
    first.arrived[signal.SIGTERM] = 1
    assert Apart(first, None, marker)() == "SIGTERM arrived"
    assert Apart(second, None, marker)() == "another rank was told to"
    assert Apart(second, Deadline(0.0, "the time is over", 1.0))() == "the time is over"
