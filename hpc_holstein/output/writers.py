"""The writers of trajectories, and which one a run takes; it decides how checkpoints are written, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.checkpoint import Checkpoint, gathered
from hpc_holstein.output.collective import CollectiveWriter, require_parallel
from hpc_holstein.output.complaints import damage_before
from hpc_holstein.output.gather import TrajectoryWriter
from hpc_holstein.output.hdf5 import opened
from hpc_holstein.output.parts import PartsWriter
from hpc_holstein.output.records import Storage
from hpc_holstein.output.tiles import saved

Asked = Literal["auto", "gather", "per-rank", "mpio"]
Kind = Literal["gather", "per-rank", "mpio"]
Writer = TrajectoryWriter | PartsWriter

LARGEST_GATHERED = 2**23
"""Sites from which on, on several ranks, ``auto`` is ``per-rank``: the root would hold 0.6 GB for a checkpoint."""


def writer_kind(asked: Asked, path: Path | None, step: int, sites: int, ranks: int) -> Kind:
    """The writer of the trajectory of a run; the one that it goes on with at ``step`` decides between one file and parts.

    Raises ConfigError where another one is asked for, DataError where the file is damaged; for the root.
    """
    if asked == "mpio":
        require_parallel()
    there = _kind_there(path, step) if path is not None and path.exists() else None
    if asked == "auto":
        return there or ("per-rank" if ranks > 1 and sites >= LARGEST_GATHERED else "gather")
    if there is not None and (there == "gather") != (asked == "gather"):
        raise ConfigError(
            f"output.writer = '{asked}' cannot go on with {path}, of the writer '{there}': give that or auto, or choose "
            "another output with --output"
        )
    return asked


def _kind_there(path: Path, step: int) -> Kind | None:
    """None: it holds nothing yet."""
    with damage_before(path, step), opened(path) as file:
        if len(file.numbers("step", written=False)) == 0:
            return None
        return "gather" if file.sources("q") is None else "per-rank"


def new_writer(
    kind: Kind,
    path: Path,
    domain: Domain,
    transport: Transport,
    dt: float,
    dtype: torch.dtype,
    attributes: Mapping[str, Any],
    storage: Storage,
) -> Writer:
    """See :class:`output.gather.TrajectoryWriter`."""
    if kind == "gather":
        return TrajectoryWriter(path, domain, dt, dtype, attributes, storage)
    of_parts = PartsWriter if kind == "per-rank" else CollectiveWriter
    return of_parts(path, domain, transport, dt, dtype, attributes, storage)


def continued_writer(
    kind: Kind,
    path: Path,
    domain: Domain,
    transport: Transport,
    dt: float,
    step: int,
    dtype: torch.dtype,
    config: str,
    storage: Storage,
) -> Writer:
    """See :meth:`output.gather.TrajectoryWriter.continued`."""
    if kind == "gather":
        return TrajectoryWriter.continued(path, domain, dt, step, config, storage)
    of_parts = PartsWriter if kind == "per-rank" else CollectiveWriter
    return of_parts.continued(path, domain, transport, dt, step, dtype, config, storage)


def saved_state(kind: Kind, folder: Path, state: State, domain: Domain, transport: Transport) -> Checkpoint | None:
    """``state`` on the root, ready for :func:`output.checkpoint.write` into ``folder``, None elsewhere; collective.

    Gathered where the trajectory is, else its tiles are on the disk already.
    """
    return gathered(state, domain) if kind == "gather" else saved(folder, state, domain, transport)
