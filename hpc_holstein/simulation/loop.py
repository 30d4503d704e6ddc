"""The run loop: one time step after another, observers at their cadence, and an account of where the time went."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, Hamiltonian, Integrator, Noise, State
from hpc_holstein.simulation.health import GuardedForces
from hpc_holstein.simulation.ledger import Ledger, MeteredTransport, Totals
from hpc_holstein.simulation.lockstep import Member
from hpc_holstein.simulation.observers import Check, CheckpointKeeper, Observer, Recorder
from hpc_holstein.simulation.stopping import Watch
from hpc_holstein.simulation.trust import Trust


@dataclass(frozen=True, kw_only=True)
class Summary(Totals):
    """Outcome of a run over all its sessions.

    ``stopped`` says why it ended before its last step, ``trust`` how far its network was trusted (:meth:`Trust.account`).
    """

    steps: int
    sites: int
    observables: dict[str, float] = field(default_factory=dict)
    electron_number_drift: float = math.nan
    stopped: str | None = None
    trust: dict[str, float] = field(default_factory=dict)

    @property
    def site_steps_per_second(self) -> float:
        """Sites times steps over wall time."""
        return self.sites * self.steps / self.wall_seconds if self.wall_seconds > 0 else math.nan

    @property
    def other_seconds(self) -> float:
        """Integration, noise and bookkeeping."""
        return self.wall_seconds - self.force_seconds - self.communication_seconds - self.output_seconds

    @property
    def halo_bytes_per_step(self) -> float:
        """Bytes that rank 0 sent for the forces of a step."""
        return self.halo_bytes / max(self.force_calls, 1)

    @property
    def hidden_fraction(self) -> float:
        """Part of the time of the halos in which the rank computed on something else."""
        whole = self.halo_seconds + self.hidden_seconds
        return self.hidden_seconds / whole if whole > 0 else 0.0


@dataclass
class Simulation:
    """Everything that moves a state: integrator, forces and noise on a domain.

    ``together``: its place among runs that advance in lock step, of which it asks the forces of its steps.
    """

    domain: Domain
    hamiltonian: Hamiltonian
    ensemble: Ensemble
    forces: ForceProvider
    integrator: Integrator
    noise: Noise
    mass: float
    dt: float
    transport: MeteredTransport
    together: Member | None = None

    @property
    def runs(self) -> int:
        """Runs that advance together, this one included."""
        return self.together.runs if self.together else 1

    def clock(self) -> float:
        """Seconds that count for this run."""
        return self.together.clock() if self.together else time.perf_counter()

    def run(
        self,
        state: State,
        steps: int,
        record: Recorder,
        observers: Sequence[Observer],
        ledger: Ledger | None = None,
        watch: Watch | None = None,
        keeper: CheckpointKeeper | None = None,
        trust: Trust | None = None,
    ) -> tuple[State, Summary]:
        """Advance ``state`` by ``steps``, or until ``watch`` says to stop; observers see multiples of ``every`` and the last.

        ``keeper`` saves what the cadence and ``watch`` ask for.  Raises SpectrumError where the run is not healthy any more,
        or not trusted.
        """
        ledger = ledger or Ledger(self.transport, clock=self.clock)
        forces = GuardedForces(self.together or self.forces, self.domain, self.dt, ledger)
        last, stopped = state.step + steps, None
        state = self.integrator.init(state, forces)
        everyone: list[Observer] = [record, *observers, Check(record.every, record.require_healthy_row)]
        everyone = [trust, *everyone, Check(trust.every, trust.require)] if trust else everyone
        everyone += [keeper] if keeper else []
        record.ledger, record.trust = ledger, trust
        _observe(everyone, state, last, ledger)
        while state.step < last:
            if watch is not None and watch.due(state.step):
                with ledger.spend("output"):
                    stopped = _heed(watch, keeper, state)
                if stopped:
                    break
            state = self.integrator.step(state, forces, self.noise)
            _observe(everyone, state, last, ledger)
        if stopped:
            record.look(state)
        return state, Summary(
            steps=state.step,
            sites=self.domain.lattice.sites,
            **asdict(ledger.totals()),
            observables=record.last,
            electron_number_drift=record.health.electron_drift,
            stopped=stopped,
            trust=trust.account() if trust else {},
        )


def _observe(observers: Sequence[Observer], state: State, last: int, ledger: Ledger) -> None:
    now = [observer for observer in observers if state.step % observer.every == 0 or state.step == last]
    if now:
        with ledger.spend("output"):
            for observer in now:
                observer(state)


def _heed(watch: Watch, keeper: CheckpointKeeper | None, state: State) -> str | None:
    """Do what all ranks have agreed on; returns why the run ends here."""
    verdict = watch.look(state.step)
    if keeper is not None and (verdict.stop or verdict.checkpoint):
        start = time.monotonic()
        keeper(state)
        watch.saved(time.monotonic() - start)
    if verdict.stop:
        watch.honoured()
    return verdict.stop
