"""The live summary of a run: what it shows as the run grows, how it notices the end, and how Ctrl-C leaves it."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from injected import command

from hpc_holstein.cli import main
from hpc_holstein.cli.watching import watch
from hpc_holstein.errors import DataError
from hpc_holstein.output import live
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.output.hdf5 import open_trajectory
from hpc_holstein.output.live import status

RUN = ["run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--set", "output.snapshot_every=5"]
PROGRAM = [sys.executable, "-m", "hpc_holstein"]


@pytest.fixture
def quench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*RUN, "--steps", "20", "--output", "r"]) == 0
    return tmp_path / "r"


def shown(folder: Path, pause: float = 0.01) -> list[str]:
    said: list[str] = []
    watch(folder, folder / "trajectory.h5", said.append, pause)
    return said


def test_the_numbers_are_those_of_the_last_row(quench: Path) -> None:
    found = status(quench / "trajectory.h5", 0.05)
    assert found is not None
    with open_trajectory(quench / "trajectory.h5") as trajectory:
        series, seconds = trajectory.series(), trajectory.seconds()
    assert (found.step, found.sites) == (20, 48)
    assert found.temperature == series["kinetic_temperature"][-1]
    assert found.order == series["order_parameter"][-1]
    assert found.length == series["domain_length_inverse_moment"][-1]
    assert found.drift == series["electron_number"][-1] - series["electron_number"][0]
    assert found.rate == pytest.approx(20 / seconds[1:].sum())


def test_a_finished_run_is_shown_once(quench: Path) -> None:
    first, last = shown(quench)
    assert re.fullmatch(
        r"step 20/20 \(100\.0 %\), [\d.e+]+ steps/s, [\d.e+]+ site-steps/s; kinetic temperature [\d.]+ t_nn, bath 0\.1 t_nn; "
        r"order parameter [\d.]+, domain length [\d.]+ a, electron number drift [\d.e+-]+ per site",
        first,
    )
    assert last == f"the run in {quench} finished, 20 steps"


def test_a_run_is_followed_from_before_its_first_row_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    steps = "400"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*PROGRAM, *RUN, "--steps", steps, "--output", "r"], cwd=tmp_path, env=environment) as run:
        said = shown(tmp_path / "r", 0.3)
        assert run.wait(30) == 0
    found = [int(line[5:].partition("/")[0]) for line in said[:-1]]
    assert found == sorted(set(found))
    assert len(found) >= 2
    assert found[-1] == int(steps)
    assert all(" to go" in line for line in said[1:-2])
    assert said[-1].endswith(f"finished, {steps} steps")


def test_a_stopped_run_says_why(tmp_path: Path) -> None:
    ended = command(tmp_path, [*RUN, "--steps", "1000000", "--output", "r"], 4.0, signal.SIGTERM)
    assert ended.code == 75, ended.told
    assert shown(tmp_path / "r")[-1].endswith("stopped because SIGTERM arrived")


def test_a_killed_run_is_noticed_by_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quench: Path) -> None:
    (quench / "summary.json").unlink()
    pulse = live.Pulse(quench, quench / "trajectory.h5")
    assert pulse.end() is None  # news a moment ago
    with FolderLock(quench) as lock:
        lock.acquire()
        assert pulse.end() is None
    assert str(pulse.end()).startswith("ended without a word")


def test_a_run_without_locks_has_ended_when_it_is_silent(quench: Path) -> None:
    (quench / "summary.json").unlink()
    before = time.time() - 100
    for path in (quench, quench / "trajectory.h5"):
        os.utime(path, (before, before))
    assert "ended without a word, or was killed: the same command continues it" in shown(quench)[-1]


def test_a_run_that_goes_on_is_not_ended_by_its_old_summary(quench: Path) -> None:
    later = (quench / "summary.json").stat().st_mtime + 5
    os.utime(quench / "trajectory.h5", (later, later))
    assert live.Pulse(quench, quench / "trajectory.h5").end() is None


def test_ctrl_c_leaves_in_silence(quench: Path) -> None:
    (quench / "summary.json").unlink()
    with subprocess.Popen(
        [*PROGRAM, "analyze", "--watch", "r"],
        cwd=quench.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background inherit that it is ignored
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("step 20/20")
        watching.send_signal(signal.SIGINT)
        _, wrong = watching.communicate(timeout=20)
    assert (watching.returncode, wrong) == (0, "")


def test_a_terminal_shows_a_block_that_is_cut_to_its_width(quench: Path) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    subprocess.run([*PROGRAM, "analyze", "--watch", "r"], cwd=quench.parent, stdout=theirs, env=environment, check=True)
    told = os.read(ours, 10_000).decode().splitlines()
    assert [line.count("\x1b[K") for line in told] == [1, 1, 1, 0]
    assert told[0].startswith("step 20/20 (100.0 %)")
    assert told[-1] == "the run in r finished, 20 steps"


def test_what_is_no_run_is_told(tmp_path: Path, quench: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist: give the folder of a run"):
        shown(tmp_path / "nowhere")
    (quench / "trajectory.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="cannot be read"):
        shown(quench)
