"""Parts of the time of one halo exchange, for sizes that ``kernels.py`` leaves out.

    mpirun -n 2 python -m mpi4py benchmarks/machine/halo.py halo.json

``exchange`` fills the ghosts of a float64 field in place, corners included, as ``PETSc DMDA`` does. ``Sendrecv of the same
bytes`` moves what crosses ranks, from buffers that are packed already, and ``images`` copies the columns that each rank has as
ghosts of its own, since it holds that axis alone: their sum is what no exchange can avoid. All are measured in turn in every
round; the best round counts, and in it the slower rank.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import mpi4py.MPI as MPI
import torch
import yardsticks  # beside this file
from timing import Action, in_turn

from hpc_holstein.bench.record import machine
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport
from hpc_holstein.lattice import square

CASES = [(length, width, numbers) for length in (128, 512) for width, numbers in ((1, 1), (3, 1), (1, 16), (1, 64))]
SENDRECV, DMDA = yardsticks.YARDSTICKS


def images(domain: CartesianDomain, width: int, numbers: int) -> Action:
    field = torch.zeros(*(cells + 2 * width for cells in domain.local_extent), numbers, dtype=torch.float64).numpy()

    def copy() -> None:
        field[:, :width] = field[:, -2 * width : -width]
        field[:, -width:] = field[:, width : 2 * width]

    return copy


def measure(transport: MPITransport, length: int, width: int, numbers: int, rounds: int) -> dict[str, Any]:
    """Rows are dealt to the ranks."""
    domain = CartesianDomain(square.build((length, length)), transport, (transport.size, 1))
    actions = {"exchange": yardsticks.exchange(domain, width, numbers), "images": images(domain, width, numbers)}
    for name, make in yardsticks.YARDSTICKS.items():
        action = make(domain, width, numbers)
        if action is not None:
            actions[name] = action
    best = {name: found["min"] for name, found in in_turn(actions, transport, rounds).items()}
    over = {name: best["exchange"] / best[name] for name in (SENDRECV, DMDA) if name in best}
    if SENDRECV in best:
        over[f"{SENDRECV} and images"] = best["exchange"] / (best[SENDRECV] + best["images"])
    return {"length": length, "width": width, "numbers": numbers, "seconds": best, "exchange_over": over}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON record to write")
    parser.add_argument("--rounds", type=int, default=100, help="of which the best counts")
    arguments = parser.parse_args()
    transport = MPITransport()
    if transport.bcast(arguments.output.exists()):
        parser.error(f"{arguments.output} exists: remove it or choose another file")
    torch.set_num_threads(1)
    setting = {
        "ranks": transport.size,
        "threads": 1,
        "dtype": "float64",
        "lattice": "square, periodic",
        "rounds": arguments.rounds,
    }
    here = machine("cpu", 1, os.cpu_count() or 1, MPI.Get_library_version().splitlines()[0])
    record: dict[str, Any] = {"benchmark": "halo", "machine": here, "setting": setting, "cases": []}
    for case in CASES:
        row = measure(transport, *case, arguments.rounds)
        record["cases"].append(row)
        if transport.rank == 0:
            times = ", ".join(f"{name} {1e6 * seconds:.1f} us" for name, seconds in row["seconds"].items())
            over = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in row["exchange_over"].items())
            print(f"{case[0]}^2, width {case[1]}, {case[2]} numbers: {times}; {over}", flush=True)
    if transport.rank == 0:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
