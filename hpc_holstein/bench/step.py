"""The time of a step, and its parts, each on its own clock.

    t_step = force + halo + sums + noise + integration  (mean over the steps of a repeat) + observables / their cadence

``force`` is without communication; ``halo`` is what the rank waits for halos, packing included; ``sums`` are sums over all
ranks, in which fast ranks wait for slow ones; ``integration`` is the rest of the loop.  Observables are whole, communication
included; output, of which a run hides a part behind the next steps, is left out.  All are means over the ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_holstein.config import Config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Noise, State
from hpc_holstein.simulation import Ledger, Recorder, Simulation, require_memory
from hpc_holstein.simulation.health import GuardedForces

PARTS = ("force", "halo", "sums", "noise", "integration", "observables")


@dataclass(frozen=True)
class StepTiming:
    """``repeats`` of ``steps`` each, after ``warm_up`` steps that do not count; noise is drawn for eight steps at once."""

    steps: int = 16
    repeats: int = 5
    warm_up: int = 8


class _TimedNoise:
    """The noise of a run, and the seconds that it took."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.seconds = 0.0

    def __call__(self, step: int) -> Tensor:
        start = time.perf_counter()
        field = self._noise(step)
        _settle()
        self.seconds += time.perf_counter() - start
        return field


def measure_step(
    config: Config, transport: Transport, device: str, how: StepTiming, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``setting`` and ``result`` of a record.  Collective."""
    simulation = build_simulation(config, transport, device)
    domain = simulation.domain
    dtype, components = config.parallel.torch_dtype, simulation.hamiltonian.components
    say(require_memory(domain, transport, dtype, simulation.forces, gathers=False, components=components))
    setting = {
        "grid": list(domain.grid),
        "lattice": list(domain.lattice.extent),
        "lattice_per_rank": [-(-n // parts) for n, parts in zip(domain.lattice.extent, domain.grid, strict=True)],
        "sites": domain.lattice.sites,
        "scheme": config.dynamics.scheme,
        "ensemble": config.ensemble.kind,
        "observables_every": config.output.observables_every,
    }
    everyone = transport.allgather(_repeats(config, simulation, how))
    return setting, _result(everyone, domain.lattice.sites)


def _repeats(config: Config, simulation: Simulation, how: StepTiming) -> list[dict[str, float]]:
    """The parts of a step in each repeat, on this rank."""
    every = config.output.observables_every
    record = Recorder(every, simulation)
    state = simulation.integrator.init(initial_state(config, simulation), simulation.forces)
    state, _ = _loop(simulation, state, how.warm_up)
    record.look(state)
    rows = []
    for _ in range(how.repeats):
        state, row = _loop(simulation, state, how.steps)
        start = _together(simulation.transport)
        record.look(state)
        _settle()
        rows.append({**row, "observables": (time.perf_counter() - start) / every})
        record.require_healthy(state)
    return rows


def _loop(simulation: Simulation, state: State, steps: int) -> tuple[State, dict[str, float]]:
    """``steps`` of the run loop: the state after them, and seconds, bytes and evaluations of a step."""
    noise, evaluations = _TimedNoise(simulation.noise), 0.0
    _together(simulation.transport)
    ledger = Ledger(simulation.transport)
    forces = GuardedForces(simulation.forces, simulation.domain, simulation.dt, ledger)
    for _ in range(steps):
        state = simulation.integrator.step(state, forces, noise)
        assert state.forces is not None
        evaluations += state.forces.info.get("evaluations", 1.0)
    _settle()
    spent = ledger.totals()
    row = {
        "force": spent.force_seconds,
        "halo": spent.halo_seconds,
        "sums": spent.communication_seconds - spent.halo_seconds,
        "noise": noise.seconds,
        "integration": spent.wall_seconds - spent.force_seconds - spent.communication_seconds - noise.seconds,
        "hidden": spent.hidden_seconds,
        "bytes": spent.halo_bytes,
        "evaluations": evaluations,
    }
    return state, {name: value / steps for name, value in row.items()}


def _settle() -> None:
    """Wait for what a GPU still computes, so that a clock shows it."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _together(transport: Transport) -> float:
    """The time at which all ranks start."""
    _settle()
    transport.barrier()
    return time.perf_counter()


def _result(everyone: Sequence[list[dict[str, float]]], sites: int) -> dict[str, Any]:
    """Means over the ranks, spreads over the repeats."""
    repeats = [{name: statistics.fmean(row[name] for row in rows) for name in rows[0]} for rows in zip(*everyone, strict=True)]
    seconds = [sum(row[name] for name in PARTS) for row in repeats]
    return {
        "seconds": _spread(seconds),
        "parts": {name: _spread([row[name] for row in repeats]) for name in PARTS},
        "hidden_seconds": _spread([row["hidden"] for row in repeats]),
        "site_steps_per_second": _spread([sites / value for value in seconds]),
        "halo_bytes": max(rows[0]["bytes"] for rows in everyone),
        "evaluations": statistics.fmean(row["evaluations"] for row in repeats),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
