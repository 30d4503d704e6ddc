"""Seconds of one halo exchange, against PETSc's DMDA with the same stencil and against MPI with the same bytes.

    mpirun -n 2 python -m mpi4py benchmarks/halo.py halo.json

All four are measured in turn in every round, so that the ratios of one record mean something; the best round counts, and in it
the slower rank. ``exchange`` and ``dmda local`` fill the ghosts of a field in place, corners included; ``dmda global`` copies
the owned cells beside; ``sendrecv`` moves the slabs that cross ranks from buffers that are packed already: what cannot be
avoided. Lattices are periodic, of float64.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mpi4py.MPI as MPI
import numpy as np
import petsc4py
import torch
from force_rate import machine

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport
from hpc_holstein.lattice import square

petsc4py.init(["halo", "-no_signal_handler"])
from petsc4py import PETSc  # noqa: E402 - after its initialization

COMM = MPI.COMM_WORLD
CASES = [(length, width, numbers) for length in (128, 512) for width, numbers in ((1, 1), (3, 1), (1, 16), (1, 64))]
_ROUND = 2e-3  # seconds: short, so that some rounds have both cores to themselves on a machine that does other work too
Action = Callable[[], Any]


def package(length: int, width: int, numbers: int) -> tuple[CartesianDomain, Action]:
    domain = CartesianDomain(square.build((length, length)), MPITransport(COMM))
    cells = domain.global_cells().double()[..., None, None] + torch.arange(numbers) / 1024
    ghosted = domain.pad(cells, width)
    expected = ghosted.clone()
    domain.crop(expected, width).copy_(cells)
    domain.exchange(ghosted, width)
    assert torch.equal(ghosted, expected)
    return domain, lambda: domain.exchange(ghosted, width)


def dmda(domain: CartesianDomain, length: int, width: int, numbers: int) -> dict[str, Action]:
    """Both ways of PETSc; what they bring is checked against the exchange of the package."""
    grid = PETSc.DMDA().create(
        dim=2,
        sizes=(length, length),
        proc_sizes=domain.grid[::-1],  # x first
        dof=numbers,
        boundary_type=("periodic", "periodic"),
        stencil_type="box",
        stencil_width=width,
        comm=COMM,
    )
    owned, local, other = grid.createGlobalVec(), grid.createLocalVec(), grid.createLocalVec()
    cells = domain.global_cells().double()[..., None, None] + torch.arange(numbers) / 1024
    owned.setArray(cells.reshape(-1).numpy())
    grid.globalToLocal(owned, local)
    brought = torch.from_numpy(local.getArray().copy()).view(*(n + 2 * width for n in domain.local_extent), 1, numbers)
    assert torch.equal(brought, domain.pad(cells, width))
    return {"dmda global": lambda: grid.globalToLocal(owned, local), "dmda local": lambda: grid.localToLocal(local, other)}


def sendrecv(domain: CartesianDomain, width: int, numbers: int) -> tuple[int, Action]:
    """Bytes that a rank sends, and the messages alone, axis by axis with the ghosts of the axes before."""
    buffers = []
    for axis, parts in enumerate(domain.grid):
        if parts > 1:
            before = [n + 2 * width for n in domain.local_extent[:axis]]
            slab = math.prod([*before, width, *domain.local_extent[axis + 1 :], numbers])
            stride = math.prod(domain.grid[axis + 1 :])
            here = domain.rank // stride % parts
            neighbours = [domain.rank + ((here + step) % parts - here) * stride for step in (1, -1)]
            buffers.append((neighbours, [*np.zeros((2, slab))], [*np.zeros((2, slab))]))

    def move() -> None:
        for (above, below), send, receive in buffers:
            COMM.Sendrecv(send[0], above, 0, receive[0], below, 0)
            COMM.Sendrecv(send[1], below, 1, receive[1], above, 1)

    return sum(part.nbytes for _, send, _ in buffers for part in send), move


def seconds(action: Action, repeats: int) -> float:
    """Of one call, on the slowest rank."""
    COMM.Barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return float(COMM.allreduce((time.perf_counter() - start) / repeats, MPI.MAX))


def measure(length: int, width: int, numbers: int, rounds: int) -> dict[str, Any]:
    domain, exchange = package(length, width, numbers)
    sent, bare = sendrecv(domain, width, numbers)
    actions = {"exchange": exchange, **dmda(domain, length, width, numbers), "sendrecv": bare}
    best = dict.fromkeys(actions, float("inf"))
    repeats = {name: max(3, int(_ROUND / min(seconds(action, 5) for _ in range(3)))) for name, action in actions.items()}
    for _ in range(rounds):
        best = {name: min(best[name], seconds(action, repeats[name])) for name, action in actions.items()}
    ratios = {name: best["exchange"] / other for name, other in best.items() if name != "exchange"}
    case = {"length": length, "grid": domain.grid, "width": width, "numbers": numbers, "bytes_sent": sent}
    return {**case, "seconds": best, "exchange_over": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--rounds", type=int, default=100, help="of which the best counts")
    arguments = parser.parse_args()
    if COMM.bcast(arguments.output.exists()):
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    torch.set_num_threads(1)
    setting = {"ranks": COMM.size, "threads": 1, "dtype": "float64", "lattice": "square, periodic", "rounds": arguments.rounds}
    record: dict[str, Any] = {"benchmark": "halo", "machine": machine(), "setting": setting, "cases": []}
    record["machine"]["versions"] |= {name: version(name) for name in ("mpi4py", "petsc4py")}
    record["machine"]["mpi"] = MPI.Get_library_version().split("\n")[0]
    for case in CASES:
        row = measure(*case, arguments.rounds)
        record["cases"].append(row)
        if COMM.rank == 0:
            times = "  ".join(f"{name} {1e6 * t:8.1f} us" for name, t in row["seconds"].items())
            print(f"{case[0]:5d}^2 width {case[1]} x {case[2]:3d}  {times}", flush=True)
    if COMM.rank == 0:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
