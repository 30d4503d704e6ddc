"""Runs in lock step: one evaluation of the forces serves all, and each gets what it would alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.interfaces import ForceProvider, ForceResult, State
from hpc_holstein.simulation import Lockstep, MeteredTransport
from hpc_holstein.simulation.ledger import _Spent


class Springs(ForceProvider):
    """``F = -q`` with the mean of ``q`` as chemical potential; refuses states with a negative mean, and counts its calls."""

    reach, tolerance, takes_batches = 0, None, True

    def __init__(self) -> None:
        self.states: list[int] = []

    def __call__(self, state: State) -> ForceResult:
        self.states.append(state.q.shape[0] if state.q.ndim == 5 else 0)
        mean = state.q.mean(dim=(-4, -3, -2, -1))
        if bool((mean < 0).any()):
            raise SpectrumError("a negative mean is no state: give a positive one")
        time.sleep(0.002)
        rows = tuple({"mean": float(value)} for value in mean) if state.q.ndim == 5 else ()
        return ForceResult(-state.q, state.q[..., 0], mean, None, {"cost": 1.0}, rows)


def walk(lockstep: Lockstep[Any], forces: Springs, value: float, steps: int, most: int = 9) -> Callable[[], Any]:
    """A run that asks ``steps`` times, and tells what it was told."""

    def work() -> Any:
        member = lockstep.join(forces, MeteredTransport(SerialTransport()), most)
        began, found = member.clock(), []
        state = State.at_rest(torch.full((2, 2, 1, 1), value, dtype=torch.float64))
        for step in range(steps):
            try:
                state = state.moved(forces=member(state.moved(q=state.q + step)))
            except SpectrumError as error:
                return str(error)
            assert state.forces is not None
            found.append(float(state.forces.chemical_potential))
        return found, member.clock() - began

    return work


def test_each_run_gets_its_own_forces_and_one_evaluation_serves_all() -> None:
    lockstep, forces = Lockstep[Any](4), Springs()
    began = time.perf_counter()
    lengths = (3, 1, 3, 2)
    found = lockstep.run([walk(lockstep, forces, 10.0 * k, lengths[k]) for k in range(4)])
    wall = time.perf_counter() - began
    for k, (means, _) in enumerate(found):
        assert means == [10.0 * k + step for step in range(lengths[k])]
    assert forces.states == [4, 3, 2]  # whoever ends leaves the batch
    clocks = sum(seconds for _, seconds in found)
    assert 0.5 * wall < clocks <= wall


def test_at_most_so_many_are_under_way_and_the_next_takes_a_free_place() -> None:
    lockstep, forces = Lockstep[Any](5), Springs()
    found = lockstep.run([walk(lockstep, forces, float(k), 1 + k % 2, most=2) for k in range(5)])
    assert [len(means) for means, _ in found] == [1, 2, 1, 2, 1]
    assert max(forces.states) == 2
    assert sum(max(count, 1) for count in forces.states) == 7


def test_an_error_of_one_state_is_its_own() -> None:
    lockstep, forces = Lockstep[Any](3), Springs()
    found = lockstep.run([walk(lockstep, forces, value, 2) for value in (1.0, -5.0, 2.0)])
    assert found[1] == "a negative mean is no state: give a positive one"
    assert found[0][0] == [1.0, 2.0]
    assert found[2][0] == [2.0, 3.0]


def test_each_run_is_charged_its_share_of_the_communication() -> None:
    """12 s an evaluation over the transport of the first run: 4 s for each of three, 12 s for the last one alone."""
    lockstep = Lockstep[Any](3)
    transports = [MeteredTransport(SerialTransport()) for _ in range(3)]

    class Slow(Springs):
        def __call__(self, state: State) -> ForceResult:
            transports[0].charge(_Spent(exchanges=12.0))
            return super().__call__(state)

    forces = Slow()

    def work(number: int) -> None:
        member = lockstep.join(forces, transports[number], 3)
        for _ in range(1 + number // 2):
            member(State.at_rest(torch.ones((2, 2, 1, 1))))

    lockstep.run([partial(work, number) for number in range(3)])
    assert [one.spent().exchanges for one in transports] == [4.0, 4.0, 16.0]


def test_what_is_no_error_of_a_run_ends_all() -> None:
    def broken() -> Any:
        raise ZeroDivisionError

    lockstep = Lockstep[Any](2)
    with pytest.raises(ZeroDivisionError):
        lockstep.run([walk(lockstep, Springs(), 1.0, 3), broken])


def test_work_that_does_not_join_is_done_in_turn() -> None:
    order: list[int] = []
    assert Lockstep[Any](3).run([lambda k=k: order.append(k) or k for k in range(3)]) == [0, 1, 2]  # type: ignore[misc]
    assert order == [0, 1, 2]
