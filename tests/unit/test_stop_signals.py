"""Signals at the edges of a command: while it is loaded, while it closes, while the interpreter ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]

COMMAND = """
import atexit, os, signal, sys, types
place, number = sys.argv[1], int(sys.argv[2])
from hpc_holstein import __main__ as entry
def strike(here):
    if here == place:
        os.kill(os.getpid(), number)
atexit.register(strike, "end of the interpreter")
def command():
    from hpc_holstein.stop_signals import EndedError, ending_at_once, noted_before
    if place == "another command":
        os.kill(os.getpid(), number)
        try:
            with ending_at_once():
                return 3
        except EndedError:
            strike("another command")
            return 75
    arrived = sum(noted_before().arrived.values())
    strike("close")
    return 75 if arrived else 0
class Loaded(types.ModuleType):
    def __getattr__(self, name):
        strike("import")
        return command
sys.modules["hpc_holstein.cli"] = Loaded("hpc_holstein.cli")
sys.exit(entry.main())
"""


def started(*arguments: object, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(("place", "code"), [("import", 75), ("close", 0), ("end of the interpreter", 0), ("nowhere", 0)])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_none_is_lost_and_none_undoes_what_is_done(place: str, code: int, number: signal.Signals) -> None:
    process = started("-c", COMMAND, place, number.value)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert told == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_command_that_keeps_nothing_half_way_ends_at_once(number: signal.Signals, code: int) -> None:
    process = started("-c", COMMAND, "another command", number.value)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Traceback" not in told


def test_a_run_that_is_told_while_its_libraries_load_stops_with_a_checkpoint(tmp_path: Path) -> None:
    run = ["-m", "hpc_holstein", "run", "--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic"]
    ready = "import sys, hpc_holstein.stop_signals as s; real = s.note_all\n"
    ready += "def noted():\n    real(); print('noted', flush=True)\n"
    ready += "s.note_all = noted; sys.argv = sys.argv[1:]; from hpc_holstein.__main__ import main; sys.exit(main())"
    process = started("-c", ready, *run[1:], "--steps", 10**6, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "noted\n"
    process.terminate()
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 75, told
    assert "because SIGTERM arrived: the same command continues it" in told
    assert (tmp_path / "run" / "checkpoints" / "step-000000000000.h5").exists()
