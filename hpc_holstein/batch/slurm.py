"""The few words that this package exchanges with Slurm: sbatch and squeue."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_holstein.errors import ConfigError

_SECONDS = 60.0  # a busy controller may take a while to answer
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")


@dataclass(frozen=True)
class LiveJob:
    """A job, or a task of an array, that Slurm has not finished.

    ``place``: its nodes, or why it waits; ``elapsed``: since its start
    """

    state: str
    place: str
    elapsed: str

    @property
    def waiting(self) -> bool:
        """True if it has not started."""
        return self.state in _WAITING


def require_slurm() -> None:
    """Raise ConfigError where there is no Slurm to submit to."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "sbatch is not on the PATH, so there is no Slurm here: log in where jobs are submitted, or give --dry-run to "
            "write the scripts only"
        )


def submit(script: Path, options: Sequence[str] = ()) -> int:
    """``sbatch``; returns the job id.  Raises ConfigError with the words of Slurm where it refuses."""
    told = _ask(["sbatch", "--parsable", *options, str(script.absolute())], f"Slurm refuses {script}")
    return int(told.strip().splitlines()[-1].partition(";")[0])


def live_jobs() -> Mapping[str, LiveJob]:
    """Id -> job of everything that this user has in the queue; tasks of an array as ``ID_INDEX``."""
    told = _ask(["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%R|%M"], "squeue cannot say what is queued")
    rows = (line.split("|") for line in told.splitlines() if line.count("|") >= 3)
    return {row[0].strip(): LiveJob(row[1].strip(), "|".join(row[2:-1]).strip(), row[-1].strip()) for row in rows}


def _ask(command: list[str], trouble: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{trouble}: no answer within {_SECONDS:g} s, try again later") from None
    except OSError as error:
        raise ConfigError(
            f"{trouble}: {command[0]} cannot be started ({error.strerror}), log in where jobs are submitted"
        ) from None
    if done.returncode:
        words = " ".join(line.partition("error: ")[2] or line for line in done.stderr.strip().splitlines())
        raise ConfigError(f"{trouble}: {words or f'exit code {done.returncode}'}")
    return done.stdout
