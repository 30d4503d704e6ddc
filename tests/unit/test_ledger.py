"""Where the time of a run went: parts that exclude each other and add up, over rows and over sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import Message, SerialTransport, Transport, run_in_process
from hpc_holstein.lattice import square
from hpc_holstein.simulation import Ledger, MeteredTransport, Totals


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Slow(SerialTransport):
    """A sum takes 20 s, an exchange 10, and the second half of one in two parts 5."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def allsum(self, value: Tensor) -> Tensor:
        self._clock.pass_by(20)
        return super().allsum(value)

    def exchange(self, messages: Sequence[Message]) -> None:
        self._clock.pass_by(10)

    def exchange_start(self, messages: Sequence[Message]) -> Callable[[], None]:
        return lambda: self._clock.pass_by(5)


def test_parts_exclude_each_other_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("hpc_holstein.simulation.ledger.time.perf_counter", clock)
    transport = MeteredTransport(Slow(clock))
    ledger = Ledger(transport, Totals(wall_seconds=1000.0, force_seconds=400.0, force_calls=7, sessions=2))
    with ledger.spend("force"):
        clock.pass_by(30)
        transport.allsum(torch.zeros(1))
    clock.pass_by(15)
    with ledger.spend("output"):
        first = ledger.row()
        transport.exchange([])  # of observables: no halo
        clock.pass_by(11)
    with ledger.spend("force"):
        finish = transport.exchange_start([])
        clock.pass_by(40)
        finish()
    with ledger.spend("output"):
        second = ledger.row()
    totals = ledger.totals()
    assert first == {"force": 30, "output": 0, "communication": 20, "other": 15}
    assert second == {"force": 40, "output": 11, "communication": 15, "other": 0}
    assert (totals.wall_seconds, totals.force_seconds, totals.output_seconds) == (1131, 470, 11)
    assert (totals.communication_seconds, totals.halo_seconds, totals.hidden_seconds) == (35, 5, 40)
    assert (totals.force_calls, totals.sessions) == (7, 3)


def test_bytes_that_leave_the_rank() -> None:
    def body(transport: Transport) -> float:
        metered = MeteredTransport(transport)
        domain = CartesianDomain(square.build((8, 6)), metered, grid=(transport.size, 1))
        ledger = Ledger(metered)
        with ledger.spend("force"):
            domain.pad(torch.zeros(*domain.local_extent, 1, 1, dtype=torch.float64), 2)
        return ledger.totals().halo_bytes

    assert run_in_process(1, body) == [0.0]
    assert run_in_process(2, body) == [2 * 2 * 6 * 8.0] * 2


def test_rows_and_summary_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given: list[Any] = ["run", "--preset", "paper-2601.04104", "--lattice", "12x12", "--force", "atomic", "--output", "r"]
    start = time.perf_counter()
    assert main([*given, "--steps", "40"]) == 0
    elapsed = time.perf_counter() - start
    with h5py.File("r/trajectory.h5") as file:
        seconds = {name: data[...] for name, data in file["timing"].items()}
    assert {name: len(row) for name, row in seconds.items()} == dict.fromkeys(seconds, 5)
    assert all(np.all(row >= -1e-9) for row in seconds.values())
    assert seconds["force_seconds"].min() > 0
    assert 0 < sum(row.sum() for row in seconds.values()) < elapsed
    told = capsys.readouterr().out
    assert "time of rank 0: forces " in told
    assert "halos" not in told  # one rank has none
