"""How a run ends before its last step: who may ask, when the ranks look, and what is no physics any more."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.simulation import RUNAWAY, Deadline, Health, Recorder, StopSignals, Watch

PRESET = "paper-2601.04104"


def test_the_earlier_of_budget_and_slurm_job_counts() -> None:
    slurm = {"SLURM_JOB_END_TIME": "5000"}
    assert Deadline.earliest(None, 1000.0, {}) is None
    budget = Deadline.earliest(100.0, 1000.0, slurm)
    job = Deadline.earliest(1e6, 1000.0, slurm)
    assert budget == Deadline(1100.0, "the wall-clock budget is used up", 10.0)
    assert job == Deadline(5000.0, "the Slurm job is about to end", 60.0)
    assert Deadline.earliest(None, 1000.0, slurm) == job


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_are_noted_and_handlers_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the terminal and the launcher
        assert signals.arrived[number] == 1
        assert sum(signals.arrived.values()) == 1
    assert signal.getsignal(number) is before


def test_a_second_interrupt_later_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_holstein.stop_signals._AGAIN_SECONDS", -1.0)
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


class Told:
    """Notes a signal on one rank at a step."""

    every = 1

    def __init__(self, signals: StopSignals, at: int) -> None:
        self._signals, self._at = signals, at

    def __call__(self, state: State) -> None:
        if state.step == self._at:
            self._signals.arrived[signal.SIGUSR1] = 1


@pytest.mark.parametrize("told_rank", [0, 2])
def test_all_ranks_stop_at_one_step_whichever_is_told(told_rank: int) -> None:
    overrides: dict[str, Any] = {"lattice.extent": [6, 6], "force.kind": "atomic", "dynamics.steps": 100000}

    def body(transport: Transport) -> tuple[int, str | None]:
        config = load_config(preset_name=PRESET, overrides=overrides)
        simulation = build_simulation(config, transport, "cpu")
        signals = StopSignals()
        watch = Watch(simulation.domain, signals)
        observers = [Told(signals, 9)] if transport.rank == told_rank else []
        record = Recorder(50, simulation)
        state, summary = simulation.run(initial_state(config, simulation), 100000, record, observers, watch=watch)
        return state.step, summary.stopped

    found = run_in_process(3, body)
    assert len(set(found)) == 1
    assert 9 <= found[0][0] < 5000
    assert found[0][1] == "SIGUSR1 arrived"


def test_looks_come_about_twice_a_second_and_never_much_later() -> None:
    """Whatever a step takes, from a millisecond to a minute."""
    domain = CartesianDomain(square.build((2, 2)), SerialTransport())
    for pace, fewest, most in ((1e-3, 250, 500), (0.1, 3, 5), (60.0, 1, 1)):
        now = [0.0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hpc_holstein.simulation.stopping.time.monotonic", lambda: now[0])  # noqa: B023
            watch = Watch(domain)
            looks = []
            for step in range(3000):
                if watch.due(step):
                    watch.look(step)
                    looks.append(step)
                now[0] += pace
        strides = np.diff(looks)
        assert np.all(strides[:-1] <= np.maximum(2 * np.append(1, strides[:-2]), 1))
        assert fewest <= strides[-1] <= most
        assert looks[:2] == [0, 1]


def test_a_checkpoint_is_asked_for_by_the_clock() -> None:
    domain = CartesianDomain(square.build((2, 2)), SerialTransport())
    now = [100.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hpc_holstein.simulation.stopping.time.monotonic", lambda: now[0])
        watch = Watch(domain, checkpoint_seconds=60.0)
        asked = []
        for step in range(400):
            if watch.due(step) and watch.look(step).checkpoint:
                asked.append(now[0])
                watch.saved(1.0)
            now[0] += 0.5
        assert np.allclose(np.diff([100.0, *asked]), 60.0, atol=1.01)
        assert len(asked) == 3


class Leaking:
    """Forces whose electrons get lost, one in ten thousand sites a step."""

    reach, tolerance = None, None

    def __init__(self, inner: Any) -> None:
        self._inner, self._calls = inner, 0

    def __call__(self, state: State) -> ForceResult:
        found: ForceResult = self._inner(state)
        self._calls += 1
        return ForceResult(found.force, found.density + 1e-4 * self._calls, found.chemical_potential, found.grand_potential)


def test_lost_electrons_end_the_run_on_all_ranks_alike() -> None:
    config = load_config(preset_name=PRESET, overrides={"lattice.extent": [6, 6], "force.kind": "atomic", "dynamics.steps": 10})

    def body(transport: Transport) -> str:
        simulation = build_simulation(config, transport, "cpu")
        simulation.forces = Leaking(simulation.forces)
        with pytest.raises(Exception, match="drift of the electron number") as caught:
            simulation.run(initial_state(config, simulation), 10, Recorder(2, simulation), [])
        return str(caught.value)

    found = run_in_process(2, body)
    assert found[0] == found[1]
    assert "by step 2" in found[0]


def values(temperature: float, classical: float, electrons: float = 0.5, mu: float = 0.0) -> dict[str, float]:
    kinetic = 0.5 * temperature
    return {
        "kinetic_temperature": temperature,
        "kinetic_energy": kinetic,
        "classical_energy": classical,
        "electron_number": electrons,
        "mu": mu,
    }


def test_limits_are_those_of_the_start() -> None:
    """Kinetic energy 2.5 and potential 14 at the start, as published: 100 (1 + 0.1 + 2.5 + 14) t_nn."""
    health = Health(Ensemble("canonical", kT=0.1), dt=0.05)
    health.require(0, values(5.0, 14.0))
    limit = RUNAWAY * 17.6
    health.require(10, values(0.99 * limit, 0.0))
    for bad in (values(1.01 * limit, 0.0), values(0.0, -1.01 * limit), values(float("nan"), 0.0), values(0.1, float("inf"))):
        with pytest.raises(SpectrumError, match="diverged by step 20"):
            health.require(20, bad)


def test_only_forces_with_a_mu_keep_electrons() -> None:
    for kind, mu, kept in (("canonical", 0.0, True), ("canonical", float("nan"), False), ("grand-canonical", 0.0, False)):
        health = Health(Ensemble(kind, kT=0.1), dt=0.05, max_electron_drift=1e-3)  # type: ignore[arg-type]
        health.require(0, values(1.0, 1.0, mu=mu))
        health.require(1, values(1.0, 1.0, 0.5009, mu))
        assert health.electron_drift == pytest.approx(9e-4)
        if kept:
            with pytest.raises(SpectrumError, match=r"electron number 0\.0011 electrons per site is beyond 0\.001"):
                health.require(2, values(1.0, 1.0, 0.4989, mu))
        else:
            health.require(2, values(1.0, 1.0, 0.4989, mu))
