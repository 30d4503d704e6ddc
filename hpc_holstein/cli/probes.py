"""Arguments and results of a probe of the machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config


@dataclass(frozen=True)
class Finding:
    """``told`` is what is there, ``remedy`` what to do where that can be better."""

    state: Literal["ok", "absent", "FAILED"]
    told: str
    remedy: str = ""


@dataclass(frozen=True)
class Place:
    """Place of the probes: the ranks, the device of this one, a folder (without a name if none could be made in ``asked``), and
    the configuration whose time step is meant.
    """

    session: Session
    device: str
    folder: Path
    asked: str
    config: Config


@dataclass(frozen=True)
class Probe:
    """A look at one thing, by all ranks together; what it raises is a failure, with ``remedy`` to say what to do then."""

    name: str
    look: Callable[[Place], Finding]
    remedy: str

    def run(self, place: Place) -> Finding:
        """The finding of this rank."""
        try:
            return self.look(place)
        except Exception as error:  # whatever it is, it is what the user wants to know
            return Finding("FAILED", f"{type(error).__name__}: {' '.join(str(error).split())}", self.remedy)


def require(right: bool, complaint: str) -> None:
    """Raise RuntimeError, a failure, where a result is not ``right``."""
    if not right:
        raise RuntimeError(complaint)
