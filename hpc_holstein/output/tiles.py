"""Checkpoints that no rank holds: each rank writes its tile, and the root then a file that refers to all of them.

step-000000012345.d/00000.h5    fields of one tile, and so on
step-000000012345.h5            numbers, attributes, and box and SHA-256 of each tile: renamed last, it makes the checkpoint
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.output.checkpoint import Checkpoint, TileFile, fields_of, gathered, path_of, tiles_of, write_file


def saved(folder: Path, state: State, domain: Domain, transport: Transport) -> Checkpoint | None:
    """Write the tiles of ``state``; what refers to them, for :func:`output.checkpoint.write`, on the root, None elsewhere.

    Collective; DataError, on all ranks, where one of them cannot be written.
    """
    fields, numbers, info = fields_of(state)
    path = tiles_of(path_of(folder, state.step)) / f"{domain.rank:05d}.h5"
    arrays = {name: owned.detach().cpu().numpy() for name, owned in fields.items()}
    with agreed(transport):
        told = write_file(path, Checkpoint(state.step, arrays))
    tiles = transport.gather(TileFile(path, domain.owned, told))
    if tiles is None:
        return None
    cells = len(domain.lattice.extent)
    shapes = {
        name: ((*field.shape[: field.ndim - cells - 2], *domain.lattice.extent, *field.shape[-2:]), field.dtype.name)
        for name, field in arrays.items()
    }
    return replace(Checkpoint(state.step, numbers, info), tiles=tuple(tiles), shapes=shapes)


def saved_state(folder: Path, state: State, domain: Domain, transport: Transport, gathers: bool) -> Checkpoint | None:
    """``state`` on the root, ready for :func:`output.checkpoint.write` into ``folder``, None elsewhere; collective.

    Its fields are gathered on the root, or are in tiles on the disk already.
    """
    return gathered(state, domain) if gathers else saved(folder, state, domain, transport)
