"""Commands in processes of their own that something ends: killed from outside, at a system call, or by an error on one rank."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CALLS = ("fsync", "pwrite", "ftruncate", "replace", "unlink", "truncate")
"""System calls that change what is on the disk."""


@dataclass(frozen=True)
class AtCall:
    """SIGKILL at the ``number``-th call of :data:`CALLS`, half of it done if it is a write and ``torn``."""

    number: int
    torn: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: by that signal), what it printed, and how long it took [s]."""

    code: int
    told: str
    seconds: float


def command(
    folder: Path,
    arguments: Sequence[str],
    fault: AtCall | float | None = None,
    number: signal.Signals = signal.SIGKILL,
    limit: float = 60.0,
) -> Ended:
    """``hpc-holstein ARGUMENTS`` in ``folder``, sent a signal after ``fault`` seconds or killed at a call.

    The seconds of a signal that a command notes count from where it does.  TimeoutError where it hangs.
    """
    context = multiprocessing.get_context("forkserver")  # forks a process that has imported everything: milliseconds
    context.set_forkserver_preload(["hpc_holstein.cli", "hpc_holstein.output.checkpoint"])
    log = folder / "told.txt"
    start = time.monotonic()
    process = context.Process(target=_child, args=(folder, list(arguments), log, fault if isinstance(fault, AtCall) else None))
    process.start()
    while number != signal.SIGKILL and process.exitcode is None and not catches(process.pid):
        time.sleep(0.001)
    process.join(fault if isinstance(fault, float) else limit)
    if process.exitcode is None and isinstance(fault, float):
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"hangs: {log.read_text()}")
    return Ended(process.exitcode, log.read_text() if log.exists() else "", time.monotonic() - start)


def catches(pid: int | None) -> bool:
    """Whether the first line of a command has run: before it a process has no code of ours that could note a signal."""
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def _child(folder: Path, arguments: list[str], log: Path, fault: AtCall | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    from hpc_holstein.cli import main

    if fault is not None:
        _arm(fault)
    sys.exit(main(arguments))


def _arm(fault: AtCall) -> None:
    done = [0]

    def watched(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] == fault.number:
                if fault.torn and name == "pwrite":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))


def on_one_rank() -> int:
    """Under mpirun: ``RANK CALL KIND ARGUMENTS``: that rank raises, or is killed, at that call of the forces."""
    rank, number, kind, *arguments = sys.argv[1:]
    from hpc_holstein.cli import main
    from hpc_holstein.forces._atomic import AtomicForces

    real, done = AtomicForces.__call__, [0]

    def call(self: AtomicForces, state: Any) -> Any:
        done[0] += 1
        if done[0] == int(number) and self.domain.rank == int(rank):
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("injected")
        return real(self, state)

    AtomicForces.__call__ = call  # type: ignore[method-assign]
    return main(arguments)


if __name__ == "__main__":
    sys.exit(on_one_rank())
