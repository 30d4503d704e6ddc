"""Trajectories of states that tests know, written on any ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.storage.series import TIMINGS
from hpc_holstein.storage.whole_files import IDENTITY
from hpc_holstein.storage.writer import Storage, TrajectoryWriter

EXTENT = (7, 150)  # tiles and chunks of several sizes
DT = 0.05
FACTS = {"config": "x = 1\n", "seed": 3, IDENTITY: "0" * 32}
EVERY = 10


def fields_at(step: int) -> list[np.ndarray]:
    """Coordinate, velocity, density, deviation."""
    generator = np.random.default_rng(step)
    return [generator.normal(size=EXTENT) for _ in range(4)]


def state_at(step: int, domain: CartesianDomain, dtype: torch.dtype = torch.float64) -> tuple[State, torch.Tensor | None]:
    """A committee joins at step 30."""
    box = tuple(slice(*span) for span in domain.owned)
    q, velocity, n, deviation = (torch.from_numpy(f[box].copy()).to(dtype)[..., None, None] for f in fields_at(step))
    state = State(q, velocity, step, ForceResult(q, n[..., 0], torch.tensor(0.25 + step)))
    return state, deviation[..., 0] if step >= 30 else None


def opened(path: Path, transport: Transport, step: int | None, **how: Any) -> TrajectoryWriter:
    """A new one, or one that goes on from a step; ``how``: as of :class:`Storage`."""
    domain, storage = CartesianDomain(square.build(EXTENT), transport), Storage(**how)
    run = path, domain, transport, DT, torch.float64
    if step is None:
        return TrajectoryWriter(*run, FACTS, storage)
    return TrajectoryWriter.continued(*run, step, FACTS, storage)


def append(writer: TrajectoryWriter, steps: range, domain: CartesianDomain) -> None:
    """Snapshots and rows of these steps."""
    for step in steps:
        row = {"order_parameter": 0.1 * step, **({"committee_rms": 0.5} if step >= 30 else {})}
        writer.write_series(step, row, dict.fromkeys(TIMINGS, 0.25))
        writer.write_snapshot(*state_at(step, domain))


def write(path: Path, transport: Transport, steps: range, start: int | None = None, **how: Any) -> None:
    """Snapshots and rows of these steps."""
    with opened(path, transport, start, **how) as writer:
        append(writer, steps, CartesianDomain(square.build(EXTENT), transport))
