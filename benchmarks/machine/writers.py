"""Checkpoint and trajectory writers, against a plain write of as many bytes that is brought onto the same disk.

mpirun -n 2 python -m mpi4py benchmarks/machine/writers.py writers.json --folder SCRATCH [--lattice 512] [--writers 2]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from timing import Action, finish, in_turn, options, row  # beside this file

from hpc_holstein.cli.session import start_transport
from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.interfaces import Domain, ForceResult, State
from hpc_holstein.output import checkpoint
from hpc_holstein.output.checkpoint import saved_state
from hpc_holstein.storage.writer import Storage, TrajectoryWriter

_FIELDS = {"checkpoint": 4, "snapshot of a trajectory": 3}  # numbers a site


def _checkpoint(state: State, domain: Domain, transport: Transport, folder: Path, gathers: bool) -> None:
    """A snapshot written as a run writes it, gathering included."""
    stored = saved_state(folder, state, domain, transport, gathers)
    with agreed(transport):
        if stored is not None:
            checkpoint.write(folder, stored, kept=1)


def _plain(path: Path, data: bytes | None, transport: Transport) -> Action:
    """The root writes while the others wait, as they do for our writers."""

    def write() -> None:
        with agreed(transport):
            if data is not None:
                with path.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())

    return write


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="existing folder on the disk that is meant")
    parser.add_argument("--lattice", type=int, default=512)
    parser.add_argument("--writers", type=int, default=0, help="as output.writers")
    parser.add_argument("--compression", type=int, default=1, help="as output.compression")
    arguments = parser.parse_args()
    transport = start_transport()
    config = load_config(None, "paper-2601.04104", {"lattice.extent": [arguments.lattice] * 2, "force.kind": "atomic"})
    simulation = build_simulation(config, transport, "cpu")
    domain, dtype = simulation.domain, config.parallel.torch_dtype
    start = initial_state(config, simulation)
    state = start.moved(forces=ForceResult(start.q.clone(), start.q[..., 0].clone(), torch.zeros((), dtype=torch.float64)))
    rows = []
    with tempfile.TemporaryDirectory(prefix=".writers-", dir=arguments.folder) as made:
        scratch = Path(transport.bcast(made))
        storage = Storage(arguments.compression, arguments.writers, False)
        path = scratch / "trajectory.h5"
        writer = TrajectoryWriter(path, domain, simulation.transport, simulation.dt, dtype, {}, storage)

        def snapshot() -> None:
            writer.write_snapshot(state)
            writer.flush()

        ours: dict[str, Action] = {
            "checkpoint": lambda: _checkpoint(state, domain, transport, scratch, writer.gathers),
            "snapshot of a trajectory": snapshot,
        }
        with writer:
            for name, action in ours.items():
                size = _FIELDS[name] * dtype.itemsize * domain.lattice.sites
                plain = _plain(scratch / "plain", os.urandom(size) if domain.rank == 0 else None, transport)
                found = in_turn({"ours": action, "plain": plain}, transport, arguments.rounds)
                rate = size / found["ours"]["min"] / 1e6
                rows.append(row(name, "a plain write and fsync", found["ours"], found["plain"]["min"], rate, "MB/s"))
        transport.barrier()
    return finish(
        "io",
        arguments,
        transport,
        {"lattice": list(domain.lattice.extent), "writers": arguments.writers, "compression": arguments.compression},
        {"rows": rows},
    )


if __name__ == "__main__":
    sys.exit(main())
