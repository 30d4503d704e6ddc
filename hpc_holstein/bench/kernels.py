"""The package's kernels against what the machine can do, or against another program, in the same process.

A row is ``{"name", "yardstick", "seconds", "yardstick_seconds", "rate", "unit", "times"}``: ``times`` is the time of the kernel
in units of that of its yardstick, each at its best, so a smaller one is better.  Rows of one record can be compared with
those of another one on any machine like it, which is what :mod:`bench.guard` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from hpc_holstein.bench import yardsticks
from hpc_holstein.bench.ceilings import measure_ceilings
from hpc_holstein.bench.timing import Action, Say, in_turn
from hpc_holstein.config import Config
from hpc_holstein.config.builders import System, build_system, forces_maker
from hpc_holstein.config.kinds import KindSection, new_section
from hpc_holstein.domain import partition
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Ensemble, ForceProvider, ForceResult, State
from hpc_holstein.network.checkpoint import load_model, model_path

HALOS = ((4, 1), (1, 16), (1, 64))
"""Width in cells, numbers a cell: the network's halo of the state, and those of blocks of KPM vectors."""
_WORDS = 3  # numbers that a Chebyshev step moves for a site of a vector if it goes through memory once
_SAMPLED = 8  # sites of the solve that PETSc and KPM both do
_TOLERANCE = 1e-4
_WINDOW = 64


@dataclass(frozen=True)
class Sizes:
    """Cells along each axis of the tile of a rank: network and halo, KPM; of the whole lattice of the PETSc solve."""

    tile: int = 256
    kpm: int = 48
    petsc: int = 32

    @classmethod
    def on(cls, device: str, quick: bool) -> Sizes:
        """What fills a core, or a GPU; ``quick``: what only shows that it works."""
        if quick:
            return cls(64, 24, 16)
        return cls(tile=2048, kpm=256) if device.startswith("cuda") else cls()


def row(name: str, yardstick: str, seconds: dict[str, float], against: float, rate: float, unit: str) -> dict[str, Any]:
    """One line of the table; ``against``: seconds of the yardstick."""
    return {
        "name": name,
        "yardstick": yardstick,
        "seconds": seconds,
        "yardstick_seconds": against,
        "rate": rate,
        "unit": unit,
        "times": seconds["min"] / against,
    }


def measure_kernels(config: Config, transport: Transport, device: str, rounds: int, sizes: Sizes, say: Say) -> dict[str, Any]:
    """``ceilings`` and ``rows`` of a record; collective."""
    ceilings = measure_ceilings(transport, device, rounds)
    say("ceilings measured")
    bench = _Bench(config, transport, device, rounds, sizes, ceilings)
    rows: list[dict[str, Any]] = []
    for part in (bench.network, bench.kpm, bench.halos, bench.petsc):
        for found in part():
            say(shown(found))
            rows.append(found)
    return {"ceilings": ceilings, "rows": rows}


def shown(found: dict[str, Any]) -> str:
    """A row in words."""
    return f"{found['name']}: {found['rate']:.3g} {found['unit']}, {found['times']:.2f} x the time of {found['yardstick']}"


@dataclass(frozen=True)
class _Bench:
    config: Config
    transport: Transport
    device: str
    rounds: int
    sizes: Sizes
    ceilings: dict[str, float]

    def network(self) -> list[dict[str, Any]]:
        """One evaluation of the network, against its own multiply-adds at the rate of the large convolution."""
        system, domain = self._place(self.sizes.tile)
        section = self.config.force if self.config.force.kind == "neural" else new_section("force", "neural")
        forces = forces_maker(system, section, mixed=self.config.parallel.dtype == "mixed")(domain)
        call, result = self._warm(forces, self._state(domain))
        module = load_model(model_path(section.options.model), system.lattice)[0].float()
        seconds = in_turn({"force": call}, self.transport, self.rounds)["force"]
        evaluations = result.info.get("evaluations", 1.0)
        done = self.sizes.tile**2 * evaluations
        rate = done / seconds["min"]
        against = done * operations(module) / self.ceilings["convolution_flops"]
        return [
            row("network force", "its operations in a large convolution", seconds, against, rate, "site evaluations/s a rank")
        ]

    def kpm(self) -> list[dict[str, Any]]:
        """A warm KPM force, against three words a site-vector-moment at the rate of a copy."""
        system, domain = self._place(self.sizes.kpm)
        forces = forces_maker(system, _kind("kpm"))(domain)
        state = self._state(domain)
        call, result = self._warm(forces, state)
        seconds = in_turn({"force": call}, self.transport, self.rounds)["force"]
        moments = self.sizes.kpm**2 * result.info["vector_moments"]
        against = moments * _WORDS * state.q.element_size() / self.ceilings["copy_bytes_per_s"]
        rate = moments / seconds["min"]
        return [row("KPM force", "three words a moment, copied", seconds, against, rate, "site-vector-moments/s a rank")]

    def halos(self) -> list[dict[str, Any]]:
        """The exchange alone, against bare messages and DMDA, all in turn."""
        if self.device != "cpu":
            return []  # DMDA and NumPy buffers are of the host
        _, domain = self._place(self.sizes.tile)
        rows = []
        for width, numbers in HALOS:
            others = {name: make(domain, width, numbers) for name, make in yardsticks.YARDSTICKS.items()}
            actions = {name: action for name, action in others.items() if action is not None}
            found = in_turn({"exchange": yardsticks.exchange(domain, width, numbers), **actions}, self.transport, self.rounds)
            ours = found["exchange"]
            name = f"halo of {width} x {numbers} numbers"
            rows += [row(name, other, ours, found[other]["min"], 1 / ours["min"], "exchanges/s") for other in actions]
        return rows

    def petsc(self) -> list[dict[str, Any]]:
        """Forces at sampled sites by PETSc, against KPM at the same sites; nothing without PETSc."""
        lattice = (self.sizes.petsc, self.sizes.petsc)
        system = build_system(_with_lattice(self.config, lattice))
        system = replace(system, ensemble=Ensemble("grand-canonical", system.ensemble.kT))
        domain = CartesianDomain(system.lattice, self.transport)
        calls: dict[str, Action] = {}
        for kind in ("petsc", "kpm"):
            try:
                forces = forces_maker(system, _kind(kind, sites=_SAMPLED))(domain)
            except ConfigError:
                return []
            calls[kind] = self._warm(forces, self._state(domain))[0]
        found = in_turn(calls, self.transport, self.rounds)
        rate = _SAMPLED / found["petsc"]["min"]
        return [row("PETSc solve", "KPM at the same sites", found["petsc"], found["kpm"]["min"], rate, "sites/s")]

    def _place(self, tile: int) -> tuple[System, CartesianDomain]:
        """A tile of that size for each rank."""
        grid = tile_grid(self.transport.size)
        system = build_system(_with_lattice(self.config, tuple(tile * parts for parts in grid)))
        return system, CartesianDomain(system.lattice, self.transport, grid, self.device)

    def _state(self, domain: CartesianDomain) -> State:
        """The hot start."""
        normal = NoiseField(self.config.dynamics.seed, Stream.INITIAL_Q, domain, dtype=self.config.parallel.torch_dtype)(0)
        return State.at_rest((self.config.initial.q_std or 1.0) * normal)

    def _warm(self, forces: ForceProvider, state: State) -> tuple[Action, ForceResult]:
        """A call that starts from the forces before, as in a run, and what it returns."""
        previous = forces(state)
        again = state.moved(forces=previous)
        return lambda: forces(again), forces(again)


def operations(module: torch.nn.Module) -> float:
    """Floating-point operations of one evaluation of a site, in windows of :data:`_WINDOW` cells, as PyTorch does them.

    Counted with gradients on: without them a network may be evaluated by other means, which the counter does not see.
    """
    edge = _WINDOW + 2 * cast(int, module.reach)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, edge, edge))
    return counter.get_total_flops() / _WINDOW**2


def tile_grid(ranks: int) -> tuple[int, int]:
    """The rank grid nearest to a square, longer along the rows."""
    rows, columns = partition.choose_grid(ranks, (ranks, ranks))
    return rows, columns


def _with_lattice(config: Config, extent: tuple[int, ...]) -> Config:
    return config.model_copy(update={"lattice": config.lattice.model_copy(update={"extent": extent})})


def _kind(kind: str, **options: Any) -> KindSection:
    return new_section("force", kind, tolerance=_TOLERANCE, **options)
