"""Every scheme, a file in ``hpc_holstein/dynamics``: its cost, and that ranks and interruptions do not matter."""

import pytest
import torch
from conformance.cases import CANONICAL, ForceCase, provider, random_q

from hpc_holstein import dynamics
from hpc_holstein.domain.noise import NoiseField
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.interfaces import State

each_scheme = pytest.mark.parametrize("scheme", dynamics.schemes())


class Run:
    """A run in the atomic limit on an 8x8 lattice that counts its force calls."""

    def __init__(self, scheme, transport=None, grid=None, dtype=torch.float64):
        self.one = dynamics.build(scheme, mass=5.0, gamma=0.2, dt=0.05, kT=CANONICAL.kT)
        self.forces = provider(ForceCase("atomic"), cells=(8, 8), transport=transport or SerialTransport(), grid=grid)
        (top, bottom), (left, right) = self.forces.domain.owned
        self.tile = (slice(top, bottom), slice(left, right))
        self.noise = NoiseField(7, 0, self.forces.domain, dtype=dtype)
        q, velocity = (random_q(8, 8, seed=seed, dtype=dtype)[self.tile].contiguous() for seed in (0, 1))
        self.calls = 0
        self.start = self.one.init(State(q=q, velocity=velocity), self.count)

    def count(self, state):
        self.calls += 1
        return self.forces(state)

    def steps(self, state, number):
        for _ in range(number):
            state = self.one.step(state, self.count, self.noise)
        return state


@each_scheme
def test_a_step_costs_what_it_states_and_keeps_the_form_of_the_state(scheme):
    run = Run(scheme, dtype=torch.float32)
    before = run.calls
    end = run.steps(run.start, 3)
    assert run.calls - before == 3 * run.one.force_calls
    assert run.one.weak_order >= 1
    assert end.step == 3
    for name in ("q", "velocity"):
        there, here = getattr(end, name), getattr(run.start, name)
        assert (there.shape, there.dtype) == (here.shape, here.dtype)
        assert not torch.equal(there, here)
    assert torch.allclose(end.forces.force, run.forces(State.at_rest(end.q)).force, atol=1e-4)  # they belong to this q


@each_scheme
def test_a_run_can_be_cut_anywhere(scheme):
    """Eleven steps at once, and seven and four by new objects from the state alone: the same bits."""
    first, second = Run(scheme), Run(scheme)
    whole = first.steps(first.start, 11)
    parts = second.steps(first.steps(first.start, 7), 4)
    assert torch.equal(whole.q, parts.q)
    assert torch.equal(whole.velocity, parts.velocity)


@each_scheme
@pytest.mark.parametrize(("size", "grid"), [(2, (1, 2)), (4, (2, 2)), (4, (4, 1))])
def test_ranks_agree_with_one(scheme, size, grid):
    run = Run(scheme)
    serial = run.steps(run.start, 20)

    def body(transport):
        part = Run(scheme, transport, grid)
        return part.tile, part.steps(part.start, 20)

    for tile, state in run_in_process(size, body):
        assert torch.allclose(state.q, serial.q[tile], atol=1e-10, rtol=0)
        assert torch.allclose(state.velocity, serial.velocity[tile], atol=1e-10, rtol=0)
