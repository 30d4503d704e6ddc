"""The run loop on real providers: cadences, conservation, independence of the ranks, and how it ends when it must."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_holstein.config import Config, load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import ForceProvider, ForceResult, State
from hpc_holstein.output.analysis import choose_frames, local_exponent
from hpc_holstein.simulation import Recorder, Simulation, SnapshotWriter, Summary, clock
from hpc_holstein.storage.trajectory import open_trajectory
from hpc_holstein.storage.writer import TrajectoryWriter


def config_of(**changes: Any) -> Config:
    base = {"lattice.extent": [8, 6], "dynamics.steps": 20, "force.kind": "atomic", "dynamics.seed": 5}
    return load_config(preset_name="paper-2601.04104", overrides={**base, **changes})


def run(config: Any, transport: Transport, observers: tuple[Any, ...] = ()) -> tuple[State, Summary, Simulation]:
    simulation = build_simulation(config, transport, "cpu")
    record = Recorder(config.output.observables_every, simulation)
    state, summary = simulation.run(initial_state(config, simulation), config.dynamics.steps, record, observers)
    return state, summary, simulation


class Seen:
    def __init__(self, every: int, record: Recorder | None = None) -> None:
        self.every, self._record = every, record
        self.steps: list[int] = []
        self.totals: list[float] = []

    def __call__(self, state: State) -> None:
        self.steps.append(state.step)
        if self._record is not None:
            self.totals.append(self._record.last["total_energy"])


def test_observers_see_the_start_their_cadence_and_the_end() -> None:
    seven, all_steps = Seen(7), Seen(1)
    state, summary, _ = run(config_of(), SerialTransport(), (seven, all_steps))
    assert seven.steps == [0, 7, 14, 20]
    assert all_steps.steps == list(range(21))
    assert state.step == 20
    assert (summary.steps, summary.sites, summary.force_calls) == (20, 48, 21)
    assert 0 < summary.force_seconds <= summary.wall_seconds


def test_the_electron_number_is_conserved() -> None:
    _, summary, _ = run(config_of(), SerialTransport())
    assert summary.electron_number_drift < 1e-12
    assert math.isclose(summary.observables["electron_number"], 0.5, abs_tol=1e-12)


@pytest.mark.parametrize("kind", ["atomic", "exact"])
def test_nve_dynamics_conserves_the_recorded_total_energy(kind: str) -> None:
    calm = {"dynamics.gamma": 0.0, "ensemble.kT": 0.5, "initial.q_std": 0.5, "initial.velocity_std": 0.1}
    drift = []
    for dt, steps in ((0.02, 20), (0.01, 40)):
        config = config_of(**calm, **{"force.kind": kind, "dynamics.dt": dt, "dynamics.steps": steps})
        simulation = build_simulation(config, SerialTransport(), "cpu")
        record = Recorder(1, simulation)
        seen = Seen(1, record)
        simulation.run(initial_state(config, simulation), steps, record, [seen])
        drift.append(float(np.ptp(seen.totals)))
    assert drift[1] < 1e-4
    assert drift[1] < 0.35 * drift[0]  # second order in dt, so that the energy and the force belong together


@pytest.mark.parametrize(("ranks", "grid"), [(2, None), (4, [2, 2]), (4, [4, 1])])
def test_the_trajectory_does_not_depend_on_the_ranks(tmp_path: Path, ranks: int, grid: list[int] | None) -> None:
    def body(transport: Transport, name: str, **changes: Any) -> None:
        config = config_of(**changes)
        simulation = build_simulation(config, transport, "cpu")
        with TrajectoryWriter(tmp_path / name, simulation.domain, transport, simulation.dt, torch.float64, {}) as writer:
            record = Recorder(5, simulation, writer)
            state = initial_state(config, simulation)
            simulation.run(state, config.dynamics.steps, record, [SnapshotWriter(10, writer)])

    body(SerialTransport(), "one.h5")
    run_in_process(ranks, lambda transport: body(transport, "many.h5", **{"parallel.grid": grid}))
    with open_trajectory(tmp_path / "one.h5") as one, open_trajectory(tmp_path / "many.h5") as many:
        assert list(one.steps) == list(many.steps) == [0, 10, 20]
        for index in range(3):
            a, b = one.snapshot(index), many.snapshot(index)
            assert np.allclose(a.q, b.q, rtol=0, atol=1e-12)
            assert np.allclose(a.velocity, b.velocity, rtol=0, atol=1e-12)
        a_series, b_series = one.series(), many.series()
        for name, row in a_series.items():
            assert np.allclose(row, b_series[name], rtol=0, atol=1e-10, equal_nan=True)


def test_the_seed_decides_and_the_initial_state_has_the_asked_variance() -> None:
    config = config_of(**{"lattice.extent": [60, 60]})
    simulation = build_simulation(config, SerialTransport(), "cpu")
    state = initial_state(config, simulation)
    assert abs(float(state.q.var()) / (5 / 0.18) - 1) < 0.08
    assert abs(float(state.velocity.var()) - 1) < 0.08
    assert abs(float((state.q * state.velocity).mean())) < 0.3  # independent streams
    again = initial_state(config, simulation)
    assert torch.equal(state.q, again.q)
    other = config_of(**{"lattice.extent": [60, 60], "dynamics.seed": 6})
    assert not torch.equal(state.q, initial_state(other, build_simulation(other, SerialTransport(), "cpu")).q)


def test_single_precision_starts_from_the_same_state() -> None:
    double, single = config_of(), config_of(**{"parallel.dtype": "float32"})
    states = [initial_state(c, build_simulation(c, SerialTransport(), "cpu")) for c in (double, single)]
    assert states[1].q.dtype == torch.float32
    assert torch.equal(states[0].q.float(), states[1].q)
    state, _, _ = run(single, SerialTransport())
    assert state.q.dtype == torch.float32


class Repelling:
    """Forces of another provider that push the wrong way, ten times as hard."""

    def __init__(self, forces: ForceProvider) -> None:
        self.reach, self.tolerance, self._forces = forces.reach, forces.tolerance, forces

    def __call__(self, state: State) -> ForceResult:
        found = self._forces(state)
        return replace(found, force=-10 * found.force)


def test_a_run_that_blows_up_says_so_on_all_ranks() -> None:
    config = config_of(**{"dynamics.steps": 400})

    def body(transport: Transport) -> str:
        simulation = build_simulation(config, transport, "cpu")
        simulation.forces = Repelling(simulation.forces)
        with pytest.raises(SpectrumError, match=r"diverged after step \d+.*dt = 0.05") as caught:
            simulation.run(initial_state(config, simulation), 400, Recorder(400, simulation), ())
        return str(caught.value)

    messages = run_in_process(2, body)
    assert messages[0] == messages[1] == body(SerialTransport())


def test_a_nan_in_one_tile_is_noticed_by_all() -> None:
    def body(transport: Transport) -> str:
        config = config_of()
        simulation = build_simulation(config, transport, "cpu")
        state = initial_state(config, simulation)
        if transport.rank == 1:
            state.q[0, 0] = math.nan
        with pytest.raises(SpectrumError) as caught:
            simulation.run(state, 3, Recorder(1, simulation), [])
        return str(caught.value)

    first, second = run_in_process(2, body)
    assert first == second
    assert "on 1 site(s)" in first


def test_frames_start_at_the_first_and_end_at_the_last_snapshot() -> None:
    steps = np.arange(0, 25001, 50)
    chosen = choose_frames(steps, 6)
    assert len(chosen) == 6
    assert (chosen[0], chosen[-1]) == (0, 500)
    assert np.all(np.diff(np.diff(chosen)) >= 0)
    assert choose_frames(steps[:3], 6) == [0, 1, 2]
    assert choose_frames(steps, 1) == [500]
    assert len(choose_frames(np.arange(0, 401, 20), 6)) == 6  # as many as asked for, where early ones crowd


def test_the_local_exponent_of_a_power_law_is_its_power() -> None:
    times = np.linspace(0, 100, 300)
    lengths = np.where(times > 0, 3.0 * np.maximum(times, 1e-9) ** 0.4, np.inf)
    exponents = local_exponent(times, lengths)
    assert np.isnan(exponents[0])
    assert np.allclose(exponents[np.isfinite(exponents)], 0.4, atol=1e-8)
    assert np.isfinite(exponents[20:]).all()
    assert np.isnan(local_exponent(times[:2], lengths[:2])).all()


def test_durations_are_readable() -> None:
    assert [clock(s) for s in (4.2, 200, 7500)] == ["4 s", "3 min 20 s", "2 h 05 min"]
