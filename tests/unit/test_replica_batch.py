"""Replicas of one rank in lock step: each is the run of its seed, ends by itself, and all are stopped together."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import write_small_network

from hpc_holstein.cli import parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.config import kinds, load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.simulation import Deadline, Lockstep, Simulation, Watch, memory
from hpc_holstein.simulation.lockstep import Member, split, stacked

PRESET = "paper-2601.04104"
GIVEN = ["run", "--preset", PRESET, "--seed", "5", "--set", "output.observables_every=4"]
NEURAL = ["--lattice", "12x12", "--force", "small.safetensors"]
IN_TURN = ["--lattice", "4x4", "--force", "exact"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def model() -> None:
    write_small_network(Path("small.safetensors"))


def start(*arguments: object, transport: Transport | None = None) -> int:
    args = parser().parse_args([*GIVEN, *map(str, arguments)])
    return int(run.execute(args, Session.of(transport or SerialTransport())))


def fields(folder: str) -> dict[str, Any]:
    with h5py.File(Path(folder) / "trajectory.h5") as file:
        return {name: file[name][...] for name in ("q", "velocity", "density") if name in file}


def told(folder: str = "all") -> list[dict[str, Any]]:
    return list(json.loads((Path(folder) / "replicas.json").read_text())["replicas"])


def assert_same(folder: str, other: str, tolerance: float = 0.0) -> None:
    found, expected = fields(folder), fields(other)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=tolerance, atol=tolerance)


def simulation(overrides: dict[str, Any]) -> tuple[Simulation, list[State]]:
    config = load_config(preset_name=PRESET, overrides={"lattice.extent": [12, 12], **overrides})
    made = build_simulation(config, SerialTransport(), "cpu")
    first = initial_state(config, made)
    return made, [first, first.moved(q=first.q.flip(0) + 0.1), first.moved(q=0.5 * first.q)]


@pytest.mark.parametrize("kind", [k for k in kinds.available("force") if k != "petsc"])
def test_a_provider_that_takes_batches_gives_each_state_what_it_has_alone(model: None, kind: str) -> None:
    """Over several steps, of which each starts from the one before; bit for bit where that is asked for."""
    options = {"force.kind": kind, "parallel.deterministic": True} if kind in ("neural", "atomic") else {"force.kind": kind}
    made, states = simulation(options | ({"force.model": "small.safetensors"} if kind == "neural" else {}))
    assert made.forces.takes_batches == (kind in ("neural", "atomic"))
    if not made.forces.takes_batches:
        return
    together, alone = list(states), list(states)
    for _ in range(4):
        found = split(made.forces(stacked(together)))
        together = [one.moved(q=one.q + 0.01 * own.force, forces=own) for one, own in zip(together, found, strict=True)]
        alone = [one.moved(q=one.q + 0.01 * own.force, forces=own) for one in alone for own in [made.forces(one)]]
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one.q, other.q)
            assert one.forces is not None
            assert other.forces is not None
            assert torch.equal(one.forces.chemical_potential, other.forces.chemical_potential)
            for name in ("filling_slope", "mu_drift"):
                assert one.forces.info.get(name) == other.forces.info.get(name)


def test_a_state_far_from_its_last_one_goes_its_own_way(model: None) -> None:
    """One that the response does not lead to its chemical potential is solved for, and the others are followed as alone."""
    made, states = simulation({"force.kind": "neural", "force.model": "small.safetensors", "parallel.deterministic": True})
    warm = [one.moved(forces=made.forces(one)) for one in states]
    moved = [warm[0].moved(q=warm[0].q + 1e-4), warm[1].moved(q=warm[1].q + 3.0), warm[2].moved(q=warm[2].q - 0.05)]
    alone = [made.forces(one) for one in moved]
    found = split(made.forces(stacked(moved)))
    assert len({one.info["evaluations"] for one in alone}) > 1
    for one, other in zip(found, alone, strict=True):
        assert torch.equal(one.force, other.force)
    mean = sum(one.info["evaluations"] for one in alone) / 3
    assert found[0].info["evaluations"] == pytest.approx(mean)


def test_batched_replicas_are_the_runs_of_their_seeds(
    model: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when they are continued, together or alone, from checkpoints that were made together or alone."""
    given = [*NEURAL, "--deterministic"]
    assert start(*given, "--steps", 4, "--seed", 6, "--output", "all/replica-0001") == 0  # alone at first
    assert start(*given, "--steps", 4, "--replicas", 3, "--output", "all") == 0
    calls: list[int] = []
    inner = NeuralForces.__call__
    with monkeypatch.context() as patch:
        patch.setattr(NeuralForces, "__call__", lambda self, state: calls.append(state.q.ndim) or inner(self, state))
        assert start(*given, "--steps", 8, "--replicas", 3, "--output", "all") == 0
    assert calls == [5] * 4
    assert "3 runs advance together, with one evaluation of the forces for all" in capsys.readouterr().out
    assert start(*given, "--steps", 10, "--seed", 7, "--output", "all/replica-0002") == 0  # alone at last
    for replica, steps in ((0, 8), (1, 8), (2, 10)):
        assert start(*given, "--steps", steps, "--seed", 5 + replica, "--output", f"one-{replica}") == 0
        assert_same(f"all/replica-{replica:04d}", f"one-{replica}")
    summary = json.loads(Path("all/replica-0000/summary.json").read_text())
    assert (summary["runs_together"], summary["steps"], summary["sessions"]) == (3, 8, 2)
    assert [(one["exit_code"], one["summary"]["runs_together"]) for one in told()] == [(0, 3)] * 3


def test_without_deterministic_they_agree_to_round_off(model: None) -> None:
    """Of a network in float32, whose sums a batch may add up in another order."""
    assert start(*NEURAL, "--steps", 8, "--replicas", 2, "--output", "all") == 0
    assert start(*NEURAL, "--steps", 8, "--seed", 6, "--output", "one") == 0
    assert_same("all/replica-0001", "one", 1e-5)


def test_forces_that_take_no_batch_run_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(*IN_TURN, "--steps", 4, "--replicas", 2, "--output", "all") == 0
    assert "2 runs in turn, since exact forces take no batch" in capsys.readouterr().out
    for replica in range(2):
        assert start(*IN_TURN, "--steps", 4, "--seed", 5 + replica, "--output", f"one-{replica}") == 0
        assert_same(f"all/replica-{replica:04d}", f"one-{replica}")


def test_the_shares_add_up_to_the_time_of_all(model: None) -> None:
    began = time.perf_counter()
    assert start(*NEURAL, "--steps", 12, "--replicas", 4, "--output", "all") == 0
    wall = time.perf_counter() - began
    assert sum(one["summary"]["wall_seconds"] for one in told()) <= wall
    summary = json.loads(Path("all/replica-0001/summary.json").read_text())
    parts = [summary[f"{name}_seconds"] for name in ("force", "communication", "output", "other")]
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(summary["wall_seconds"])
    assert summary["communication_seconds"] > 0  # of sums and halos that the first one did for all


@pytest.mark.parametrize("given", [NEURAL, IN_TURN], ids=["together", "in-turn"])
def test_a_stop_file_above_the_replicas_stops_all(model: None, given: list[str]) -> None:
    Path("all").mkdir()
    Path("all/STOP").touch()
    assert start(*given, "--steps", 3, "--replicas", 3, "--output", "all") == 75
    assert [one["exit_code"] for one in told()] == [75] * 3
    stopped = [one["summary"].get("stopped") for one in told()]
    assert stopped[0] == "there is a file all/STOP"
    assert stopped[1:] == [stopped[0] if given is NEURAL else None] * 2  # one that has not started has no summary
    assert not Path("all/STOP").exists()
    assert start(*given, "--steps", 3, "--replicas", 3, "--output", "all") == 0
    assert [one["summary"]["steps"] for one in told()] == [3] * 3


@pytest.mark.parametrize("given", [NEURAL, IN_TURN], ids=["together", "in-turn"])
def test_a_stop_file_of_one_replica_stops_that_one(model: None, given: list[str]) -> None:
    Path("all/replica-0000").mkdir(parents=True)
    Path("all/replica-0000/STOP").touch()
    assert start(*given, "--steps", 3, "--replicas", 3, "--output", "all") == 75
    assert [one["exit_code"] for one in told()] == [75, 0, 0]
    assert start(*given, "--steps", 3, "--replicas", 3, "--output", "all") == 0
    assert [one["summary"]["steps"] for one in told()] == [3] * 3


@pytest.mark.parametrize("given", [NEURAL, IN_TURN], ids=["together", "in-turn"])
def test_one_signal_stops_all(model: None, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    inner, calls = Watch.look, [0]

    def look(self: Watch, step: int) -> Any:
        calls[0] += 1
        if calls[0] == (8 if given is NEURAL else 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "look", look)
        assert start(*given, "--steps", 60, "--replicas", 3, "--output", "all") == 75
    assert [one["exit_code"] for one in told()] == [75] * 3
    stopped = [one["summary"].get("stopped") for one in told()]
    assert stopped == ["SIGTERM arrived", *["SIGTERM arrived" if given is NEURAL else None] * 2]
    assert signal.getsignal(signal.SIGTERM) is before
    steps = [one["summary"].get("steps", 0) for one in told()]
    assert given is IN_TURN or max(steps) - min(steps) <= 1


def test_an_error_of_one_replica_leaves_the_others(model: None) -> None:
    Path("all/replica-0001").mkdir(parents=True)
    Path("all/replica-0001/trajectory.h5").write_text("precious")
    assert start(*NEURAL, "--steps", 4, "--replicas", 3, "--output", "all") == 2
    assert [one["exit_code"] for one in told()] == [0, 2, 0]
    assert "exists already" in told()[1]["error"]


def test_a_replica_that_blows_up_leaves_the_others(model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last good state is kept; it is the second one, in the middle of the batch."""
    inner = Member.__call__

    def lost(self: Member, state: State) -> ForceResult:
        found = inner(self, state)
        if state.step == 3 and self is members[1]:
            return ForceResult(found.force * torch.nan, found.density, found.chemical_potential, None, found.info)
        return found

    members: list[Member] = []
    joined = Lockstep.join

    def join(self: Lockstep[Any], *given: Any) -> Member:
        members.append(joined(self, *given))
        return members[-1]

    monkeypatch.setattr(Member, "__call__", lost)
    monkeypatch.setattr(Lockstep, "join", join)
    assert start(*NEURAL, "--steps", 8, "--replicas", 3, "--output", "all") == 2
    assert [one["exit_code"] for one in told()] == [0, 2, 0]
    assert "diverged" in told()[1]["error"]
    monkeypatch.undo()


def test_as_many_as_there_is_memory_for(
    model: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need: list[float] = []
    inner = memory._needs

    def needs(*given: Any) -> Any:
        found = inner(*given)
        need.append(found[0].bytes)
        return found

    assert start(*NEURAL, "--deterministic", "--steps", 2, "--replicas", 4, "--output", "free") == 0
    assert "for 4 runs together" in capsys.readouterr().out
    monkeypatch.setattr(memory, "process_bytes", lambda: (0.0, 0.0))
    monkeypatch.setattr(memory, "_needs", needs)
    domain = CartesianDomain(square.build((12, 12)), SerialTransport())
    made, _ = simulation({"force.kind": "neural", "force.model": "small.safetensors"})
    assert memory.most_together(domain, SerialTransport(), torch.float64, made.forces, True, 4) == 4
    of_two = inner(domain, torch.float64, made.forces, True, 2, 1)[0].bytes
    monkeypatch.setattr(memory, "host_bytes", lambda: of_two * 1.01)
    assert memory.most_together(domain, SerialTransport(), torch.float64, made.forces, True, 4) == 2
    capsys.readouterr()
    assert start(*NEURAL, "--deterministic", "--steps", 2, "--replicas", 4, "--output", "all") == 0
    assert "2 runs of 4, as many as memory and open files allow, advance together" in capsys.readouterr().out
    for replica in range(4):
        assert_same(f"all/replica-{replica:04d}", f"free/replica-{replica:04d}")


def test_a_committee_judges_each_replica_as_alone(model: None) -> None:
    write_small_network(Path("other.safetensors"), seed=8)
    given = [*NEURAL, "--deterministic", "--set", 'force.committee=["other.safetensors"]', "--set", "trust.max_deviation=1e-9"]
    assert start(*given, "--steps", 4, "--replicas", 2, "--output", "all") == 0
    for replica in range(2):
        assert start(*given, "--steps", 4, "--seed", 5 + replica, "--output", f"one-{replica}") == 0
        assert_same(f"all/replica-{replica:04d}", f"one-{replica}")
        alone = json.loads(Path(f"one-{replica}/summary.json").read_text())["trust"]
        assert alone["beyond"] == 2
        assert told()[replica]["summary"]["trust"] == alone


def test_several_replicas_on_a_group_of_ranks(model: None) -> None:
    """A grid that makes one group of two ranks gives both replicas to it."""
    given = [*NEURAL, "--deterministic", "--steps", 3]
    codes = run_in_process(
        2, lambda transport: start(*given, "--grid", "2x1", "--replicas", 2, "--output", "all", transport=transport)
    )
    assert codes == [0, 0]
    summary = json.loads(Path("all/replica-0001/summary.json").read_text())
    assert (summary["grid"], summary["runs_together"]) == ([2, 1], 2)
    assert summary["halo_bytes"] > 0
    for replica in range(2):
        assert start(*given, "--seed", 5 + replica, "--output", f"one-{replica}") == 0
        assert_same(f"all/replica-{replica:04d}", f"one-{replica}")


def test_a_grid_that_does_not_share_out_the_ranks_is_refused(model: None) -> None:
    with pytest.raises(ConfigError, match=r"grid = 2x1 of each of parallel\.replicas = 2 cannot share 1 ranks: start 2 or 4"):
        start(*NEURAL, "--grid", "2x1", "--replicas", 2)


def test_a_deadline_leaves_time_for_the_checkpoints_of_all() -> None:
    """Of 8 runs, 3 times 2 s each: 48 s and 10 s for the end."""
    domain = CartesianDomain(square.build((2, 2)), SerialTransport())
    late = []
    for together in (1, 8):
        watch = Watch(domain, deadline=Deadline(time.time() + 40.0, "time is up", 10.0), together=together)
        watch.saved(2.0)
        late.append(watch.look(0).stop)
    assert late == [None, "time is up"]
