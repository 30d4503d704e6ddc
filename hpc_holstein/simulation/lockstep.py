"""Several runs of one process that take their steps together: the forces of all are one evaluation of a batch.

Each run is a greenlet, a function that can be left in the middle and gone on with later, all in one thread.  It works as it
does alone, with files, noise and checks of its own, until it asks for forces; when every run has asked, those of all states
are computed, and each goes on with its own.  Runs are taken in the order of their numbers, so that on the ranks of a group, all
of which do the same, collective calls meet.  A run that ends or fails leaves the others, and one that waits takes its place.

A batch costs what a large lattice does, while a small lattice alone spends most of its time on calls, sums and launches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from greenlet import getcurrent, greenlet

from hpc_holstein.errors import HolsteinError
from hpc_holstein.interfaces import ForceProvider, ForceResult, State
from hpc_holstein.simulation.ledger import MeteredTransport

T = TypeVar("T")


@dataclass
class _Question:
    """A state whose forces are asked for; then these or why there are none, and the share of the time [s]."""

    state: State
    transport: MeteredTransport
    answer: ForceResult | HolsteinError | None = None
    seconds: float = 0.0


class Member(ForceProvider):
    """Force provider of one run of a lock step, and a clock that stands still while the other runs work."""

    def __init__(self, lockstep: Lockstep, forces: ForceProvider, transport: MeteredTransport) -> None:
        self.reach, self.tolerance = forces.reach, forces.tolerance
        self._lockstep, self._transport, self._away = lockstep, transport, 0.0

    @property
    def runs(self) -> int:
        """Runs that are under way at one time."""
        return self._lockstep.most

    def clock(self) -> float:
        """Seconds, as ``time.perf_counter`` without the work for other runs."""
        return time.perf_counter() - self._away

    def __call__(self, state: State) -> ForceResult:
        """Forces of ``state``, when all other runs have asked for theirs; raises what their computation raises."""
        question, left = _Question(state, self._transport), time.perf_counter()
        self._lockstep.ask(question)
        self._away += time.perf_counter() - left - question.seconds
        if isinstance(question.answer, HolsteinError):
            raise question.answer
        assert question.answer is not None
        return question.answer


class Lockstep(Generic[T]):
    """Does pieces of work, each of which is one run that may ask for forces together with the others.

    ``most`` of ``wanted`` pieces are under way at one time: 1, until the first one that joins has said how many.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted, self.most = wanted, 1
        self._main: greenlet | None = None
        self._forces: ForceProvider | None = None
        self._transport: MeteredTransport | None = None

    @property
    def joined(self) -> bool:
        """True if a run has joined."""
        return self._forces is not None

    def join(self, forces: ForceProvider, transport: MeteredTransport, most: int = 1) -> Member:
        """Let the run that calls this ask for its forces together with others of the same system on the same ranks.

        Those of the first one, over its ``transport``, are computed for all, and its ``most`` holds.
        """
        if self._forces is None:
            self._forces, self._transport, self.most = forces, transport, most
        return Member(self, forces, transport)

    def run(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """The results of ``works`` in their order.  One that does not join is done from its beginning to its end."""
        self._main = getcurrent()
        waiting = deque(enumerate(works))
        results: dict[int, T] = {}
        living: dict[int, tuple[greenlet, _Question]] = {}

        def go_on(number: int, run: greenlet) -> None:
            told = run.switch()
            if run.dead:
                living.pop(number, None)
                results[number] = told
            else:
                living[number] = run, told

        try:
            while waiting or living:
                while waiting and len(living) < self.most:
                    number, work = waiting.popleft()
                    go_on(number, greenlet(work))
                self._answer([question for _, question in living.values()])
                for number, (run, _) in sorted(living.items()):
                    go_on(number, run)
        finally:
            for run, _ in living.values():  # something that is no error of a run: close the files of the others
                run.throw()
        return [results[number] for number in range(len(works))]

    def ask(self, question: _Question) -> None:
        """Leave the run until ``question`` is answered."""
        assert self._main is not None
        self._main.switch(question)

    def _answer(self, questions: Sequence[_Question]) -> None:
        """Answer the questions, those that are alike together."""
        groups: dict[object, list[_Question]] = {}
        for question in questions:
            groups.setdefault(_likeness(question.state), []).append(question)
        for alike in groups.values():
            self._evaluate(alike)

    def _evaluate(self, alike: Sequence[_Question]) -> None:
        """Forces of ``alike`` as one batch; where that fails each for itself, so that only the one whose fault it is fails."""
        assert self._forces is not None
        assert self._transport is not None
        start, spent = time.perf_counter(), self._transport.spent()
        try:
            found: Sequence[ForceResult | HolsteinError] = _evaluated(self._forces, [one.state for one in alike])
        except HolsteinError as error:
            if len(alike) > 1:
                for one in alike:
                    self._evaluate([one])
                return
            found = [error]
        spent = self._transport.spent().plus(spent, -1)
        self._transport.charge(spent, -1)
        for one, answer in zip(alike, found, strict=True):
            one.transport.charge(spent, 1 / len(alike))
            one.answer, one.seconds = answer, (time.perf_counter() - start) / len(alike)


def _likeness(state: State) -> object:
    """The same for states that can be a batch: one shape, and forces of the step before that tell the same things."""
    return state.q.shape, state.q.dtype, None if state.forces is None else frozenset(state.forces.info)


def _evaluated(forces: ForceProvider, states: Sequence[State]) -> list[ForceResult]:
    """The forces of each of ``states``; of one alone as they are without company."""
    found = [forces(states[0])] if len(states) == 1 else split(forces(stacked(states)))
    if states[0].q.is_cuda:
        torch.cuda.synchronize(states[0].q.device)  # its time is the share of all
    return found


def stacked(states: Sequence[State]) -> State:
    """``states`` of one shape as a batch, ``[states, *cells, basis, components]``, of the step of the first one.

    Velocities, which no force depends on, are zeros that take no memory.
    """
    q = torch.stack([state.q for state in states])
    velocity, results = q.new_zeros(()).expand_as(q), [state.forces for state in states if state.forces is not None]
    return State(q, velocity, states[0].step, _stacked_forces(results) if results else None)


def _stacked_forces(results: Sequence[ForceResult]) -> ForceResult:
    potentials = [one.grand_potential for one in results if one.grand_potential is not None]
    return ForceResult(
        force=torch.stack([one.force for one in results]),
        density=torch.stack([one.density for one in results]),
        chemical_potential=torch.stack([one.chemical_potential for one in results]),
        grand_potential=torch.stack(potentials) if len(potentials) == len(results) else None,
        of_states=tuple(one.info for one in results),
    )


def split(batch: ForceResult) -> list[ForceResult]:
    """The results of the states of a batch ``[states, ...]``; what was told of the batch is told of each."""
    omega = batch.grand_potential
    return [
        ForceResult(
            force=batch.force[i],
            density=batch.density[i],
            chemical_potential=batch.chemical_potential[i],
            grand_potential=None if omega is None else omega[i],
            info={**batch.info, **(batch.of_states[i] if batch.of_states else {})},
        )
        for i in range(len(batch.force))
    ]
