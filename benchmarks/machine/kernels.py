"""The package's kernels against what the machine can do, or against another program, in the same process.

    mpirun -n 2 python -m mpi4py benchmarks/machine/kernels.py kernels.json [--guard RECORD] [--quick]

``ceilings`` are what memory, matrices and messages reach; a row is a kernel and its yardstick: ``times`` is its time in units
of that of the yardstick, each at its best, so a smaller one is better.  Seconds differ from day to day, ratios of one process
much less: ``--guard`` compares these with those of a record and fails where one is worse by more than ``--factor``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import yardsticks  # beside this file
from ceilings import measure_ceilings
from timing import Action, finish, in_turn, options, row
from torch.utils.flop_counter import FlopCounterMode

from hpc_holstein.cli.session import start_transport
from hpc_holstein.config import Config, load_config
from hpc_holstein.config.builders import System, build_system, forces_maker
from hpc_holstein.config.kinds import KindSection, new_section
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.partition import choose_grid
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Ensemble, ForceProvider, ForceResult, State
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.packaged import model_path

HALOS = ((4, 1), (1, 16), (1, 64))
"""Width in cells, numbers a cell: the network's halo of the state, and those of blocks of KPM vectors."""
_WORDS = 3  # numbers that a Chebyshev step moves for a site of a vector if it goes through memory once
_SAMPLED = 8  # sites of the solve that PETSc and KPM both do
_WINDOW = 64


@dataclass(frozen=True)
class Bench:
    """Cells along each axis of the tile of a rank: network and halo (``tile``), ``kpm``; of the lattice of the PETSc solve."""

    config: Config
    transport: Transport
    device: str
    rounds: int
    ceilings: dict[str, float]
    tile: int
    kpm_tile: int
    petsc_lattice: int

    def network(self) -> list[dict[str, Any]]:
        """One evaluation of the network, against its own multiply-adds at the rate of the large convolution."""
        system, domain = self.place(self.tile)
        section = self.config.force
        forces = forces_maker(system, section, mixed=self.config.parallel.dtype == "mixed")(domain)
        call, result = self.warm(forces, domain)
        seconds = in_turn({"force": call}, self.transport, self.rounds)["force"]
        module = load_model(model_path(section.options.model), system.lattice)[0].float()
        done = self.tile**2 * result.info.get("evaluations", 1.0)
        against = done * operations(module) / self.ceilings["convolution_flops"]
        rate = done / seconds["min"]
        return [
            row("network force", "its operations in a large convolution", seconds, against, rate, "site evaluations/s a rank")
        ]

    def kpm(self) -> list[dict[str, Any]]:
        """A warm KPM force, against three words a site-vector-moment at the rate of a copy."""
        system, domain = self.place(self.kpm_tile)
        call, result = self.warm(forces_maker(system, kind("kpm"))(domain), domain)
        seconds = in_turn({"force": call}, self.transport, self.rounds)["force"]
        moments = self.kpm_tile**2 * result.info["vector_moments"]
        against = moments * _WORDS * self.config.parallel.torch_dtype.itemsize / self.ceilings["copy_bytes_per_s"]
        rate = moments / seconds["min"]
        return [row("KPM force", "three words a moment, copied", seconds, against, rate, "site-vector-moments/s a rank")]

    def halos(self) -> list[dict[str, Any]]:
        """The exchange alone, against bare messages and DMDA, all in turn; these are of the host."""
        _, domain = self.place(self.tile)
        rows = []
        for width, numbers in HALOS if self.device == "cpu" else ():
            others = {name: make(domain, width, numbers) for name, make in yardsticks.YARDSTICKS.items()}
            actions = {name: action for name, action in others.items() if action is not None}
            found = in_turn({"exchange": yardsticks.exchange(domain, width, numbers), **actions}, self.transport, self.rounds)
            ours = found["exchange"]
            name = f"halo of {width} x {numbers} numbers"
            rows += [row(name, other, ours, found[other]["min"], 1 / ours["min"], "exchanges/s") for other in actions]
        return rows

    def petsc(self) -> list[dict[str, Any]]:
        """Forces at sampled sites by PETSc, against KPM at the same sites; nothing without PETSc."""
        system = build_system(with_lattice(self.config, (self.petsc_lattice,) * 2))
        system = replace(system, ensemble=Ensemble("grand-canonical", system.ensemble.kT))
        domain = CartesianDomain(system.lattice, self.transport)
        try:
            made = {name: forces_maker(system, kind(name, sites=_SAMPLED))(domain) for name in ("petsc", "kpm")}
        except ConfigError:
            return []
        calls = {name: self.warm(forces, domain)[0] for name, forces in made.items()}
        found = in_turn(calls, self.transport, self.rounds)
        rate = _SAMPLED / found["petsc"]["min"]
        return [row("PETSc solve", "KPM at the same sites", found["petsc"], found["kpm"]["min"], rate, "sites/s")]

    def place(self, tile: int) -> tuple[System, CartesianDomain]:
        """A tile of that size for each rank, on the grid nearest to a square."""
        ranks = self.transport.size
        grid = choose_grid(ranks, (ranks, ranks))
        system = build_system(with_lattice(self.config, tuple(tile * parts for parts in grid)))
        return system, CartesianDomain(system.lattice, self.transport, grid, self.device)

    def warm(self, forces: ForceProvider, domain: CartesianDomain) -> tuple[Action, ForceResult]:
        """A call of the hot start that begins with the forces before, as in a run, and what it returns."""
        normal = NoiseField(self.config.dynamics.seed, Stream.INITIAL_Q, domain, dtype=self.config.parallel.torch_dtype)(0)
        state = State.at_rest((self.config.initial.q_std or 1.0) * normal)
        again = state.moved(forces=forces(state))
        return lambda: forces(again), forces(again)


def operations(module: torch.nn.Module) -> float:
    """Floating-point operations of one evaluation of a site, in windows of :data:`_WINDOW` cells, as PyTorch does them.

    Counted with gradients on: without them a network may be evaluated by other means, which the counter does not see.
    """
    edge = _WINDOW + 2 * cast(int, module.reach)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, edge, edge))
    return counter.get_total_flops() / _WINDOW**2


def with_lattice(config: Config, extent: tuple[int, ...]) -> Config:
    return config.model_copy(update={"lattice": config.lattice.model_copy(update={"extent": extent})})


def kind(name: str, **choice: Any) -> KindSection:
    return new_section("force", name, tolerance=1e-4, **choice)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small lattices: seconds instead of a minute")
    arguments = parser.parse_args()
    transport = start_transport()
    sizes = (64, 24, 16) if arguments.quick else (2048, 256, 32) if arguments.device.startswith("cuda") else (256, 48, 32)
    ceilings = measure_ceilings(transport, arguments.device, arguments.rounds)
    config = load_config(None, "paper-2601.04104", {})
    bench = Bench(config, transport, arguments.device, arguments.rounds, ceilings, *sizes)
    rows = [found for part in (bench.network, bench.kpm, bench.halos, bench.petsc) for found in part()]
    return finish("kernels", arguments, transport, {"quick": arguments.quick}, {"ceilings": ceilings, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
