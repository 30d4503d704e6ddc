"""Yardsticks of a halo exchange: PETSc's DMDA with the same stencil, and MPI with the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import Action  # beside this file

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import _petsc


def exchange(domain: CartesianDomain, width: int, numbers: int) -> Action:
    """Fill the ghosts of a float64 field of ``numbers`` a cell in place, corners included."""
    ghosted = domain.pad(_cells(domain, numbers), width)
    return lambda: domain.exchange(ghosted, width)


def sendrecv(domain: CartesianDomain, width: int, numbers: int) -> Action | None:
    """The messages alone, from buffers that are packed already, axis by axis; None where nothing crosses ranks of MPI."""
    communicator: Any = getattr(domain.transport, "communicator", None)
    buffers: list[tuple[list[int], np.ndarray, np.ndarray]] = []
    for axis, parts in enumerate(domain.grid):
        if parts > 1 and communicator is not None:
            before = [n + 2 * width for n in domain.local_extent[:axis]]
            slab = math.prod([*before, width, *domain.local_extent[axis + 1 :], numbers])
            stride = math.prod(domain.grid[axis + 1 :])
            here = domain.rank // stride % parts
            neighbours = [domain.rank + ((here + step) % parts - here) * stride for step in (1, -1)]
            buffers.append((neighbours, np.zeros((2, slab)), np.zeros((2, slab))))

    def move() -> None:
        for (above, below), send, receive in buffers:
            communicator.Sendrecv(send[0], above, 0, receive[0], below, 0)
            communicator.Sendrecv(send[1], below, 1, receive[1], above, 1)

    return move if buffers else None


def dmda(domain: CartesianDomain, width: int, numbers: int) -> Action | None:
    """``localToLocal`` of PETSc, which fills ghosts in place too; what it brings is checked.  None without PETSc.

    Raises RuntimeError where the exchange of the package brings something else.
    """
    try:
        PETSc = _petsc._petsc()
    except ConfigError:
        return None
    from mpi4py import MPI  # which PETSc has started

    communicator: Any = getattr(domain.transport, "communicator", None)
    grid = PETSc.DMDA().create(
        dim=2,
        sizes=domain.lattice.extent[::-1],  # x first
        proc_sizes=domain.grid[::-1],
        dof=numbers,
        boundary_type=("periodic", "periodic"),
        stencil_type="box",
        stencil_width=width,
        comm=PETSc.COMM_SELF if communicator is None else MPI.Intracomm(communicator),
    )
    owned, local, other = grid.createGlobalVec(), grid.createLocalVec(), grid.createLocalVec()
    cells = _cells(domain, numbers)
    owned.setArray(cells.reshape(-1).numpy())
    grid.globalToLocal(owned, local)
    brought = torch.from_numpy(local.getArray().copy()).view(*(n + 2 * width for n in domain.local_extent), 1, numbers)
    if not torch.equal(brought, domain.pad(cells, width)):
        raise RuntimeError("the halo exchange and DMDA bring different ghosts")
    return lambda: grid.localToLocal(local, other)


def _cells(domain: CartesianDomain, numbers: int) -> torch.Tensor:
    """A field in which every number differs."""
    return domain.global_cells().double()[..., None, None] + torch.arange(numbers) / 1024


HaloYardstick = Callable[[CartesianDomain, int, int], Action | None]
YARDSTICKS: dict[str, HaloYardstick] = {"Sendrecv of the same bytes": sendrecv, "PETSc DMDA": dmda}
