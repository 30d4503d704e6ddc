"""Observers of a run at their own cadence: scalars, snapshots, checkpoints, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

from hpc_holstein.domain.transport import Transport, agreed
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian, Observable, State
from hpc_holstein.output import checkpoint, observables
from hpc_holstein.output.order import Order, OrderScalars, default_orders
from hpc_holstein.simulation.health import Health, require_sane
from hpc_holstein.simulation.ledger import Ledger
from hpc_holstein.simulation.trust import Trust
from hpc_holstein.storage.writer import TrajectoryWriter

_LOG_SECONDS = 30.0  # between two progress lines where there is no terminal

Say = Callable[[str], None]


class Observer(Protocol):
    """Looks at the state at the multiples of ``every`` and at the end; collective."""

    every: int

    def __call__(self, state: State) -> None:
        """Look at ``state``."""


@dataclass
class Check:
    """An observer that lets ``look`` look."""

    every: int
    look: Callable[[State], None]

    def __call__(self, state: State) -> None:
        """Look at ``state``."""
        self.look(state)


class Physics(Protocol):
    """Arguments of the scalars of a state."""

    domain: Domain
    hamiltonian: Hamiltonian
    ensemble: Ensemble
    mass: float
    dt: float


class RunPhysics(Physics, Protocol):
    """A domain, and the transport of its reductions."""

    @property
    def transport(self) -> Transport:
        """Transport of the domain."""


class Recorder:
    """Scalar observables of the whole lattice at their cadence; keeps the last row, and what the health is measured against.

    Every rank computes its part and has the whole row; nothing is gathered.  Collective to make.  ``orders``: those of
    the lattice where none are given, ``further``: other kinds of observables; ``told``: a sentence for each that is left out.
    """

    def __init__(
        self,
        every: int,
        simulation: RunPhysics,
        writer: TrajectoryWriter | None = None,
        health: Health | None = None,
        orders: Sequence[Order] | None = None,
        further: Sequence[Observable] = (),
    ) -> None:
        self.every = every
        self.health = health or Health(simulation.ensemble, simulation.dt)
        self._simulation, self._writer = simulation, writer
        recorded = default_orders(simulation.hamiltonian) if orders is None else orders
        self._order = OrderScalars(simulation.domain, simulation.transport, recorded)
        self.told, self._further = self._order.told, further
        if writer is not None:
            writer.describe({name: told for one in further for name, told in one.series.items()})
        self.last: dict[str, float] = {}
        self.ledger: Ledger | None = None  # of a run, which sets it
        self.trust: Trust | None = None  # likewise

    def __call__(self, state: State) -> None:
        """Compute and write one row, and where the time since the row before went."""
        self.look(state)
        if self._writer is not None:
            judged = self.trust.values(state.step) if self.trust else {}
            self._writer.write_series(state.step, {**self.last, **judged}, self.ledger.row() if self.ledger else {})

    def look(self, state: State) -> None:
        """Compute :attr:`last`, the scalars of :data:`storage.series.SERIES`, without writing it."""
        assert state.forces is not None
        self.last = {**self._order(state.forces.density, state.q), **_numbers(_sums(state, self._simulation))}
        for one in self._further:
            self.last |= {name: float(value) for name, value in one(state, self._simulation.domain).items()}

    def require_healthy_row(self, state: State) -> None:
        """SpectrumError where the row of ``state``, just recorded, is not healthy; to come after all that write it."""
        self.health.require(state.step, self.last)

    def require_healthy(self, state: State) -> None:
        """SpectrumError where ``state``, between two rows, is not healthy."""
        self.health.require(state.step, _numbers(_sums(state, self._simulation)))


class BatchHealth:
    """The health of quenches that move together on one rank, each measured against its own start.

    ``limits`` has one :class:`Health` for each quench, and ``numbers`` its number in what SpectrumError says.
    """

    def __init__(self, physics: Physics, limits: Sequence[Health], numbers: Sequence[int], every: int) -> None:
        self._physics, self._limits, self._numbers, self._every = physics, limits, numbers, every

    def __call__(self, state: State, recorded: bool) -> None:
        """Look at ``q [quench, *cells, basis, components]`` in each step; at the multiples of ``every``, and where the state
        is ``recorded``, at all limits.
        """
        require_sane(state, self._physics.domain, self._physics.dt)
        if not recorded and state.step % self._every:
            return
        sums = _sums(state, self._physics)
        for index, (number, health) in enumerate(zip(self._numbers, self._limits, strict=True)):
            try:
                health.require(state.step, _numbers({name: values[index] for name, values in sums.items()}))
            except SpectrumError as error:
                raise SpectrumError(f"quench {number}: {error}") from None


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _sums(state: State, run: Physics) -> dict[str, Tensor]:
    """The scalars that health looks at, and those that cost as little, ``[*batch]``; the same on all ranks."""
    assert state.forces is not None
    domain, density = run.domain, state.forces.density
    energies = observables.energies(state, run.mass, run.hamiltonian, domain, run.ensemble)
    return {
        "kinetic_temperature": observables.kinetic_temperature(state.velocity, run.mass, domain),
        "electron_number": observables.electron_number(density, domain) / domain.lattice.sites,
        "mu": state.forces.chemical_potential,
        **{f"{name}_energy": value for name, value in energies.items()},
    }


class SnapshotWriter:
    """Writes the state to the trajectory at its cadence, with the deviation of the force where there is a committee."""

    def __init__(self, every: int, writer: TrajectoryWriter, trust: Trust | None = None) -> None:
        self.every, self._writer, self._trust = every, writer, trust

    def __call__(self, state: State) -> None:
        """Append the state."""
        self._writer.write_snapshot(state, self._trust.deviation(state) if self._trust else None)


class CheckpointKeeper:
    """An observer that saves the state every ``every`` steps (0: not by steps) and at the last one; collective.

    The trajectory goes to the disk first, so it never ends before the checkpoint.  A state that is not healthy is not saved.
    ``step``: the one that is saved already, where the run starts; then that of the last checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        kept: int,
        domain: Domain,
        transport: Transport,
        ledger: Ledger,
        record: Recorder,
        writer: TrajectoryWriter,
        attributes: Mapping[str, Any],
        step: int = 0,
    ) -> None:
        self.folder, self.every, self.step = folder, every or sys.maxsize, step
        self._kept, self._domain, self._transport = kept, domain, transport
        self._ledger, self._record, self._writer, self._attributes = ledger, record, writer, attributes

    def __call__(self, state: State) -> None:
        """Save ``state``, unless it is saved; DataError, on all ranks, where it cannot be written."""
        if state.step == self.step:
            return
        start = time.perf_counter()
        self._record.require_healthy(state)
        self._writer.flush()
        stored = checkpoint.saved_state(self.folder, state, self._domain, self._transport, self._writer.gathers)
        with agreed(self._transport):
            if stored is not None:
                account = {**asdict(self._ledger.totals()), **self._record.health.start}
                account |= self._record.trust.carried(state.step) if self._record.trust else {}
                account |= dict(zip(("snapshots", "rows"), self._writer.rows(state.step), strict=True))
                stored = replace(stored, account=account, attributes=dict(self._attributes))
                checkpoint.write(self.folder, stored, self._kept)
        self.step = state.step
        self._ledger.checkpoint_seconds += time.perf_counter() - start


class Progress:
    """A bar on a terminal, otherwise a line now and then: step, rate and time to go.  For rank 0 only.

    ``together``: runs that advance in lock step, whose rate is that of all.
    """

    every = 1

    def __init__(self, last: int, sites: int, say: Say, together: int = 1) -> None:
        self._last, self._sites, self._say = last, together * sites, say
        self._whose = f" of {together} runs together" if together > 1 else ""
        self._bar = tqdm(total=last, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        self._start = self._spoken = time.perf_counter()
        self._first: int | None = None

    def __call__(self, state: State) -> None:
        """Show how far the run is."""
        if self._first is None:
            self._first, self._start = state.step, time.perf_counter()
        if self._bar is not None:
            self._bar.update(state.step - self._bar.n)
            if state.step == self._last:
                self._bar.close()
            return
        now, done = time.perf_counter(), state.step - self._first
        if done and now - self._spoken >= _LOG_SECONDS:
            self._spoken = now
            rate = done / (now - self._start)
            left = (self._last - state.step) / rate
            self._say(
                f"step {state.step}/{self._last}, {rate * self._sites:.3g} site-steps/s{self._whose}, {clock(left)} to go"
            )


def clock(seconds: float) -> str:
    """``4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
