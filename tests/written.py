"""Trajectories of states that tests know, written by any writer on any ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.output.records import Storage
from hpc_holstein.output.writers import Kind, Writer, continued_writer, new_writer
from hpc_holstein.storage.series import TIMINGS

EXTENT = (7, 150)  # tiles and chunks of several sizes
DT = 0.05
FACTS = {"config": "x = 1\n", "seed": 3}
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


def opened(kind: Kind, path: Path, transport: Transport, step: int | None, level: int = 1, guarded: bool = True) -> Writer:
    """A new one, or one that goes on from a step."""
    domain, storage = CartesianDomain(square.build(EXTENT), transport), Storage(level, guarded)
    if step is None:
        return new_writer(kind, path, domain, transport, DT, torch.float64, FACTS, storage)
    return continued_writer(kind, path, domain, transport, DT, step, torch.float64, "x = 1\n", storage)


def write(kind: Kind, path: Path, transport: Transport, steps: range, start: int | None = None, **options: Any) -> None:
    """Snapshots and rows of these steps."""
    domain = CartesianDomain(square.build(EXTENT), transport)
    with opened(kind, path, transport, start, **options) as writer:
        for step in steps:
            if domain.rank == 0:
                row = {"order_parameter": 0.1 * step, **({"committee_rms": 0.5} if step >= 30 else {})}
                writer.write_series(step, row, dict.fromkeys(TIMINGS, 0.25))
            writer.write_snapshot(*state_at(step, domain))
