"""Where a time step spends its time: the parts of the run loop, each on its own clock.

    t_step = force + halo + sums + noise + integration  (mean over the steps of a repeat)
             + observables / their cadence + output / its cadence

``force`` is without communication; ``halo`` is what the rank waits for halos, packing included; ``sums`` are sums over all
ranks, in which fast ranks wait for slow ones; ``integration`` is the rest of the loop.  Observables and output are whole,
communication included; output is a snapshot of ``trajectory.h5`` until it is on the disk, of which a run hides a part behind
the next steps.  All are means over the ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from hpc_holstein.bench.memory import Memory
from hpc_holstein.bench.timing import Say, settle, spread
from hpc_holstein.bench.trajectory import kind_of, scratch_writer
from hpc_holstein.config import Config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import Channel, Message, Transport
from hpc_holstein.interfaces import Noise, State
from hpc_holstein.output.writers import Writer
from hpc_holstein.simulation import Ledger, Recorder, Simulation, require_memory
from hpc_holstein.simulation.health import GuardedForces

PARTS = ("force", "halo", "sums", "noise", "integration", "observables", "output")


@dataclass(frozen=True)
class How:
    """``repeats`` of ``steps`` each, after ``warm_up`` steps that do not count; noise is drawn for eight steps at once."""

    steps: int = 16
    repeats: int = 5
    warm_up: int = 8


class CountedTransport:
    """A transport that counts the messages that leave its rank."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.messages = 0

    def exchange(self, messages: Sequence[Message]) -> None:
        """See :class:`Transport`."""
        self.messages += self._leaving(messages)
        self._inner.exchange(messages)

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        """See :class:`Transport`."""
        self.messages += self._leaving(messages)
        return self._inner.exchange_start(messages)

    def channel(self, messages: Sequence[Message]) -> Channel:
        """See :class:`Transport`."""
        return _CountedChannel(self, self._inner.channel(messages), self._leaving(messages))

    def _leaving(self, messages: Sequence[Message]) -> int:
        return sum(message.dest not in (None, self._inner.rank) for message in messages)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _CountedChannel:
    """A channel that adds its messages to those of its transport each time it starts."""

    def __init__(self, transport: CountedTransport, inner: Channel, messages: int) -> None:
        self._transport, self._messages = transport, messages
        self._start, self.wait = inner.start, inner.wait

    def start(self) -> None:
        """See :class:`Channel`."""
        self._transport.messages += self._messages
        self._start()


class _TimedNoise:
    """The noise of a run, and the seconds that it took."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.seconds = 0.0

    def __call__(self, step: int) -> Tensor:
        start = time.perf_counter()
        field = self._noise(step)
        settle()
        self.seconds += time.perf_counter() - start
        return field


def measure_step(config: Config, transport: Transport, device: str, how: How, scratch: Path, say: Say) -> dict[str, Any]:
    """``setting`` and ``result`` of a record; ``scratch``: an existing folder for a trajectory.  Collective."""
    memory = Memory(device)
    counted = CountedTransport(transport)
    simulation = build_simulation(config, counted, device)
    kind = kind_of(config, simulation)
    gathers, dtype = kind == "gather", config.parallel.torch_dtype
    say(require_memory(simulation.domain, transport, dtype, simulation.forces, gathers))
    writer = scratch_writer(kind, config, simulation, scratch)
    with writer:
        rows = _repeats(config, simulation, counted, how, writer)
    everyone = transport.allgather(rows)
    return {
        "setting": {**_setting(config, simulation), "writer": kind},
        "result": _result(everyone, simulation, memory.of_ranks(transport)),
    }


def _repeats(
    config: Config, simulation: Simulation, counted: CountedTransport, how: How, writer: Writer
) -> list[dict[str, float]]:
    """The parts of a step in each repeat, on this rank."""
    output = config.output
    record = Recorder(output.observables_every, simulation)
    state = simulation.integrator.init(initial_state(config, simulation), simulation.forces)
    state, _ = _loop(simulation, state, how.warm_up, counted)
    record.look(state)
    writer.write_snapshot(state)
    rows = []
    for _ in range(how.repeats):
        state, row = _loop(simulation, state, how.steps, counted)
        row["observables"] = _seconds(lambda now=state: record.look(now), simulation.transport) / output.observables_every  # type: ignore[misc]

        def write(now: State = state) -> None:
            writer.write_snapshot(now)
            writer.flush()

        row["output"] = _seconds(write, simulation.transport) / output.snapshot_every
        record.require_healthy(state)
        rows.append(row)
    return rows


def _loop(simulation: Simulation, state: State, steps: int, counted: CountedTransport) -> tuple[State, dict[str, float]]:
    """``steps`` of the run loop: the state after them, and seconds, bytes, messages and evaluations of a step."""
    noise = _TimedNoise(simulation.noise)
    settle()
    simulation.transport.barrier()
    sent, evaluations = counted.messages, 0.0
    ledger = Ledger(simulation.transport)
    forces = GuardedForces(simulation.forces, simulation.domain, simulation.dt, ledger)
    for _ in range(steps):
        state = simulation.integrator.step(state, forces, noise)
        assert state.forces is not None
        evaluations += state.forces.info.get("evaluations", 1.0)
    settle()
    spent = ledger.totals()
    row = {
        "force": spent.force_seconds,
        "halo": spent.halo_seconds,
        "sums": spent.communication_seconds - spent.halo_seconds,
        "noise": noise.seconds,
        "integration": spent.wall_seconds - spent.force_seconds - spent.communication_seconds - noise.seconds,
        "hidden": spent.hidden_seconds,
        "bytes": spent.halo_bytes,
        "messages": float(counted.messages - sent),
        "evaluations": evaluations,
    }
    return state, {name: value / steps for name, value in row.items()}


def _seconds(action: Callable[[], object], transport: Transport) -> float:
    """Of one call that all ranks start together."""
    settle()
    transport.barrier()
    start = time.perf_counter()
    action()
    settle()
    return time.perf_counter() - start


def _result(everyone: list[list[dict[str, float]]], simulation: Simulation, bytes_per_rank: float) -> dict[str, Any]:
    """Means over the ranks, spreads over the repeats."""
    repeats = [{name: fmean(row[name] for row in rows) for name in rows[0]} for rows in zip(*everyone, strict=True)]
    seconds = [sum(row[name] for name in PARTS) for row in repeats]
    sites = simulation.domain.lattice.sites
    return {
        "unit": "step",
        "seconds": spread(seconds),
        "parts": {name: spread([row[name] for row in repeats]) for name in PARTS},
        "hidden_seconds": spread([row["hidden"] for row in repeats]),
        "site_steps_per_second": spread([sites / value for value in seconds]),
        "halo_bytes": max(rows[0]["bytes"] for rows in everyone),
        "messages": max(rows[0]["messages"] for rows in everyone),
        "evaluations": fmean(row["evaluations"] for row in repeats),
        "force_imbalance": fmean(
            max(row["force"] for row in rows) / fmean(row["force"] for row in rows) for rows in zip(*everyone, strict=True)
        ),
        "bytes_per_rank": bytes_per_rank,
    }


def _setting(config: Config, simulation: Simulation) -> dict[str, Any]:
    domain = simulation.domain
    return {
        "of": "step",
        "grid": list(domain.grid),
        "lattice": list(domain.lattice.extent),
        "lattice_per_rank": [-(-n // parts) for n, parts in zip(domain.lattice.extent, domain.grid, strict=True)],
        "sites": domain.lattice.sites,
        "scheme": config.dynamics.scheme,
        "ensemble": config.ensemble.kind,
        "observables_every": config.output.observables_every,
        "snapshot_every": config.output.snapshot_every,
    }
