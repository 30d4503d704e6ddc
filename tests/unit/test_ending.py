"""Commands that are told to end before they are done: exit code 75, one sentence, and the same command goes on."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpc_holstein import __main__ as entry
from hpc_holstein.cli import main
from hpc_holstein.simulation import StopSignals
from hpc_holstein.simulation.stopping import Deadline, SeparateStop
from hpc_holstein.stop_signals import SIGNALS

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


PRESET = ["--preset", "paper-2601.04104"]
KEEPS_NOTHING = {
    "validate": (["validate", "--run", "run", "--reference", "exact"], "validate.compare", "validate._draw"),
    "analyze": (["analyze", "run"], "analyze.frames", "analyze.write_numbers"),
    "analyze --xdmf": (["analyze", "run", "--xdmf"], "analyze._drawn_orders", None),
    "analyze --animate": (["analyze", "run", "--animate"], "analyze.order_frames", None),
    "dos": (["dos", "--run", "run", "--vectors", "2"], "dos.spectrum", "dos._write"),
    "bench": (
        ["bench", "strong", "--lattice", "9x9", "--force", "atomic", "--output", "records"],
        "bench.measure_step",
        "record.Record.write",
    ),
    "doctor": (["doctor"], "doctor._joined", None),
    "pipeline": (["pipeline", *PRESET, "--dry-run"], "pipeline.configuration", "pipeline.FolderLock"),
    "submit": (["submit", *PRESET, "--dry-run"], "submit.configuration", "submit.Script.write"),
}
"""Command line, a function before its results are there, and one while they are written."""


@pytest.fixture
def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command line as a process enters it, in a folder with a run; handlers of signals are put back at the end."""
    monkeypatch.chdir(tmp_path)
    assert (
        main(["run", *PRESET, "--lattice", "8x8", "--steps", "4", "--force", "atomic", "--set", "output.snapshot_every=2"]) == 0
    )
    before = [(number, signal.getsignal(number)) for number in SIGNALS]

    def enter(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["hpc-holstein", *words])
        return entry.main()

    yield enter
    for number, handler in before:
        signal.signal(number, handler)


def struck(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Let SIGTERM arrive when the function ``place`` of ``cli`` or ``bench`` is called."""
    module, _, name = place.partition(".")
    owner: Any = importlib.import_module(f"hpc_holstein.{'bench' if module == 'record' else 'cli'}.{module}")
    *inner, name = name.split(".")
    for one in inner:
        owner = getattr(owner, one)
    real = getattr(owner, name)

    def called(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize("command", KEEPS_NOTHING)
def test_a_command_that_keeps_nothing_leaves_nothing_and_says_so(
    entered: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
) -> None:
    words, working, _ = KEEPS_NOTHING[command]
    before = sorted(Path.cwd().rglob("*"))
    struck(monkeypatch, working)
    assert entered(*words) == os.EX_TEMPFAIL
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "stopped because SIGTERM arrived: nothing is kept, and the same command starts again"
    assert "Traceback" not in err
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("command", [name for name, (*_, writing) in KEEPS_NOTHING.items() if writing])
def test_a_command_that_writes_its_results_writes_them_all(
    entered: Callable[..., int], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    words, _, writing = KEEPS_NOTHING[command]
    assert entered(*words) == 0
    whole = sorted(path for path in Path.cwd().rglob("*") if not path.name.endswith(".lock"))
    for path in set(whole) - set(Path("run").resolve().glob("*")):
        if path.is_file() and path.suffix in (".json", ".png", ".csv", ".sbatch") and "checkpoints" not in path.parts:
            path.unlink()
    (Path("run") / "analysis" / "analysis.h5").unlink(missing_ok=True)
    struck(monkeypatch, str(writing))
    assert entered(*words) == 0
    assert sorted(path for path in Path.cwd().rglob("*") if not path.name.endswith(".lock")) == whole


@pytest.mark.skipif(MPIRUN is None, reason="needs mpirun")
@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGTERM), (2, signal.SIGUSR1)])
def test_validate(tmp_path: Path, ranks: int, number: signal.Signals) -> None:
    with h5py.File(tmp_path / "states.h5", "w") as file:
        file["q"] = np.random.default_rng(1).normal(size=(40, 40, 40))
    words = ["validate", "--input", "states.h5", "--force", "atomic", "--reference", "exact"]
    code, last = told(tmp_path, ranks, number, *words)
    assert (code, last) == (75, f"stopped because {number.name} arrived: nothing is kept, and the same command starts again")
    assert [path.name for path in tmp_path.iterdir()] == ["states.h5"]


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
    assert SeparateStop(second, None, marker)() is None
    first.arrived[signal.SIGTERM] = 1
    assert SeparateStop(first, None, marker)() == "SIGTERM arrived"
    assert SeparateStop(second, None, marker)() == "another rank was told to"
    assert SeparateStop(second, Deadline(0.0, "the time is over", 1.0))() == "the time is over"
