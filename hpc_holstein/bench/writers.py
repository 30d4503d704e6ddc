"""Checkpoint and trajectory writers, against a plain write of as many bytes that is brought onto the same disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.bench.kernels import row, shown
from hpc_holstein.bench.timing import Action, Say, in_turn
from hpc_holstein.bench.trajectory import kind_of, scratch_writer
from hpc_holstein.config import Config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import DataError
from hpc_holstein.interfaces import Domain, ForceResult, State
from hpc_holstein.output import checkpoint
from hpc_holstein.output.writers import Kind, saved_state

_FIELDS = {"checkpoint": 4, "snapshot of a trajectory": 3}  # numbers a site


def measure_writers(config: Config, transport: Transport, device: str, rounds: int, scratch: Path, say: Say) -> dict[str, Any]:
    """``setting`` and ``result`` of a record; ``scratch``: an existing folder on the disk that is meant.  Collective."""
    simulation = build_simulation(config, transport, device)
    domain, dtype = simulation.domain, config.parallel.torch_dtype
    start = initial_state(config, simulation)
    mu = torch.zeros((), dtype=torch.float64)
    state = start.moved(forces=ForceResult(start.q.clone(), start.q[..., 0].clone(), mu))
    kind = kind_of(config, simulation)
    writer = scratch_writer(kind, config, simulation, scratch)

    def snapshot() -> None:
        writer.write_snapshot(state)
        writer.flush()

    ours: dict[str, Action] = {
        "checkpoint": lambda: _checkpoint(kind, state, domain, transport, scratch),
        "snapshot of a trajectory": snapshot,
    }
    rows = []
    with writer:
        for name, action in ours.items():
            size = _FIELDS[name] * dtype.itemsize * domain.lattice.sites
            plain = _plain(scratch / "plain", os.urandom(size) if domain.rank == 0 else None, transport)
            found = in_turn({"ours": action, "plain": plain}, transport, rounds)
            rate = size / found["ours"]["min"] / 1e6
            rows.append(row(name, "a plain write and fsync", found["ours"], found["plain"]["min"], rate, "MB/s"))
            say(shown(rows[-1]))
    setting = {
        "grid": list(domain.grid),
        "lattice": list(domain.lattice.extent),
        "sites": domain.lattice.sites,
        "writer": kind,
    }
    return {"setting": setting, "result": {"rows": rows}}


def _checkpoint(kind: Kind, state: State, domain: Domain, transport: Transport, folder: Path) -> None:
    """As a run does it, gathering included."""
    stored = saved_state(kind, folder, state, domain, transport)
    with agreed(transport):
        if stored is not None:
            checkpoint.write(folder, checkpoint.with_facts(stored, {}, {}), kept=1)


def _plain(path: Path, data: bytes | None, transport: Transport) -> Action:
    """The root writes while the others wait, as they do for our writers."""

    def write() -> None:
        with agreed(transport):
            if data is not None:
                try:
                    with path.open("wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                except OSError as error:
                    raise DataError(f"{path} cannot be written ({error.strerror}): choose another folder") from None

    return write
