"""The run loop: one time step after another, observers at their cadence, and an account of where the time went."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from hpc_holstein.domain.transport import Message, Transport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, Integrator, Noise, State
from hpc_holstein.output import observables
from hpc_holstein.output.hdf5 import TrajectoryWriter

LARGEST = 1e6
"""|Q| beyond this is a run that has blown up: physical values stay below 100."""
_LOG_SECONDS = 30.0  # between two progress lines where there is no terminal

Say = Callable[[str], None]


class Observer(Protocol):
    """Looks at the state every ``every`` steps, at the start and at the end; collective."""

    every: int

    def __call__(self, state: State) -> None:
        """Look at ``state``."""


class MeteredTransport:
    """A transport that adds up the seconds it spends in halo exchanges and sums, waiting for other ranks included."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.rank, self.size = inner.rank, inner.size
        self.seconds = 0.0

    def exchange(self, messages: Sequence[Message]) -> None:
        """See :class:`Transport`."""
        start = time.perf_counter()
        self._inner.exchange(messages)
        self.seconds += time.perf_counter() - start

    def allsum(self, value: Tensor) -> Tensor:
        """See :class:`Transport`."""
        start = time.perf_counter()
        total = self._inner.allsum(value)
        self.seconds += time.perf_counter() - start
        return total

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class GuardedForces:
    """A force provider that refuses a state that has blown up, in one sentence on all ranks, and measures its time."""

    def __init__(self, forces: ForceProvider, domain: Domain, dt: float) -> None:
        self._forces, self._domain, self._dt = forces, domain, dt
        self.reach, self.tolerance = forces.reach, forces.tolerance
        self.seconds, self.calls = 0.0, 0

    def __call__(self, state: State) -> ForceResult:
        """Forces of ``state``; SpectrumError where ``q`` holds NaN or has left every physical range."""
        start = time.perf_counter()
        self._require_sane(state)
        result = self._forces(state)
        if result.force.is_cuda:
            torch.cuda.synchronize(result.force.device)
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return result

    def _require_sane(self, state: State) -> None:
        lost = (~(state.q.abs() < LARGEST)).sum()  # NaN compares false
        count = int(self._domain.allsum(lost.to(torch.float64).cpu()))
        if count:
            raise SpectrumError(
                f"the run diverged after step {state.step}: q is NaN or beyond {LARGEST:g} on {count} site(s); "
                f"use a time step smaller than dt = {self._dt:g}, or check the force provider with `hpc-holstein validate`"
            )


@dataclass(frozen=True)
class Summary:
    """What a run did; seconds are those of rank 0."""

    steps: int
    sites: int
    wall_seconds: float
    force_seconds: float
    communication_seconds: float
    force_calls: int
    observables: dict[str, float] = field(default_factory=dict)
    electron_number_drift: float = math.nan

    @property
    def site_steps_per_second(self) -> float:
        """Sites times steps over wall time."""
        return self.sites * self.steps / self.wall_seconds if self.wall_seconds > 0 else math.nan


@dataclass
class Simulation:
    """Everything that moves a state: integrator, forces and noise on a domain."""

    domain: Domain
    hamiltonian: Hamiltonian
    ensemble: Ensemble
    forces: ForceProvider
    integrator: Integrator
    noise: Noise
    mass: float
    dt: float
    transport: MeteredTransport

    def run(self, state: State, steps: int, record: Recorder, observers: Sequence[Observer]) -> tuple[State, Summary]:
        """Advance ``state`` by ``steps``; observers see the first state, every ``every``-th one and the last."""
        forces = GuardedForces(self.forces, self.domain, self.dt)
        start, last = time.perf_counter(), state.step + steps
        state = self.integrator.init(state, forces)
        everyone: list[Observer] = [record, *observers]
        _observe(everyone, state, last, first=True)
        while state.step < last:
            state = self.integrator.step(state, forces, self.noise)
            _observe(everyone, state, last)
        summary = Summary(
            steps=steps,
            sites=self.domain.lattice.sites,
            wall_seconds=time.perf_counter() - start,
            force_seconds=forces.seconds,
            communication_seconds=self.transport.seconds,
            force_calls=forces.calls,
            observables=record.last,
            electron_number_drift=record.electron_drift,
        )
        return state, summary


def _observe(observers: Sequence[Observer], state: State, last: int, first: bool = False) -> None:
    for observer in observers:
        if first or state.step % observer.every == 0 or state.step == last:
            observer(state)


class Recorder:
    """Scalar observables of the whole lattice at their cadence; keeps the last row and the drift of the electron number."""

    def __init__(self, every: int, simulation: Simulation, writer: TrajectoryWriter | None = None) -> None:
        self.every = every
        self._simulation, self._writer = simulation, writer
        self.last: dict[str, float] = {}
        self.electron_drift = 0.0
        self._electrons: float | None = None

    def __call__(self, state: State) -> None:
        """Compute and write one row."""
        run = self._simulation
        self.last = scalars(state, run)
        electrons = self.last["electron_number"]
        if self._electrons is None:
            self._electrons = electrons
        self.electron_drift = max(self.electron_drift, abs(electrons - self._electrons))
        if self._writer is not None:
            self._writer.write_series(state.step, self.last)


def scalars(state: State, run: Simulation) -> dict[str, float]:
    """The scalars of :data:`output.hdf5.SERIES` for one state with forces; collective.

    What needs the whole lattice (domain lengths, if it is periodic, and walls) is computed on rank 0, absent on the others.
    """
    assert state.forces is not None
    domain, density = run.domain, state.forces.density
    energies = observables.energies(state, run.mass, run.hamiltonian, domain, run.ensemble)
    values = {
        "order_parameter": observables.owned_order_parameter(density, domain),
        "order_parameter_q": observables.owned_order_parameter(state.q[..., 0], domain),
        "kinetic_temperature": observables.kinetic_temperature(state.velocity, run.mass, domain),
        "electron_number": observables.electron_number(density, domain) / domain.lattice.sites,
        "mu": state.forces.chemical_potential,
        **{f"{name}_energy": value for name, value in energies.items()},
    }
    whole = domain.gather(density.unsqueeze(-1))
    if whole is not None:
        phi = observables.local_order(whole[..., 0, 0].cpu(), domain.lattice)
        if all(domain.lattice.periodic):
            lengths = observables.domain_length(phi, domain.lattice)
            values |= {f"domain_length_{name}": value for name, value in lengths.items()}
        values["domain_wall_density"] = observables.wall_density(phi, domain.lattice)
    return {name: float(value) for name, value in values.items()}


class SnapshotWriter:
    """Writes the state to the trajectory at its cadence."""

    def __init__(self, every: int, writer: TrajectoryWriter) -> None:
        self.every, self._writer = every, writer

    def __call__(self, state: State) -> None:
        """Append the state."""
        self._writer.write_snapshot(state)


class Progress:
    """A bar on a terminal, otherwise a line now and then: step, rate and time to go. For rank 0 only."""

    every = 1

    def __init__(self, steps: int, sites: int, say: Say) -> None:
        self._steps, self._sites, self._say = steps, sites, say
        self._bar = tqdm(total=steps, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        self._start = self._spoken = time.perf_counter()
        self._first: int | None = None

    def __call__(self, state: State) -> None:
        """Show how far the run is."""
        if self._first is None:
            self._first, self._start = state.step, time.perf_counter()
        done = state.step - self._first
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            if done == self._steps:
                self._bar.close()
            return
        now = time.perf_counter()
        if done and now - self._spoken >= _LOG_SECONDS:
            self._spoken = now
            rate = done / (now - self._start)
            left = (self._steps - done) / rate
            self._say(f"step {done}/{self._steps}, {rate * self._sites:.3g} site-steps/s, {clock(left)} to go")


def clock(seconds: float) -> str:
    """``4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
