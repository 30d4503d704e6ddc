"""The solver of the chemical potential on levels that are known, and the atomic limit as a provider."""

import math

import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import _canonical, atomic
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

G, KT = 3.5, 0.1
CANONICAL = Ensemble("canonical", kT=KT)


def test_solver_fills_a_degenerate_level_in_part():
    """Five sites at one energy between one below and two above, half filling at kT = 0: three electrons on five sites."""
    energies = torch.tensor([[-1.0, 0.2, 0.2, 0.2, 0.2, 0.2, 3.0, 5.0]], dtype=torch.float64)
    solved = _canonical.solve_chemical_potential(
        density=lambda mu, rows: _canonical.occupation(energies[rows], mu, 0.0),
        mean=lambda n: n.mean(dim=1),
        filling=0.5,
        kT=0.0,
        guess=torch.zeros(1),
        slope=torch.ones(1),
        density_tolerance=0.0,
    )
    assert torch.allclose(solved.density, torch.tensor([[1.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.0, 0.0]]).double())
    assert float(solved.chemical_potential) == pytest.approx(0.2, abs=1e-12)


def test_a_state_that_is_solved_at_once_leaves_the_others_of_its_batch():
    """Densities made for inference, as by networks, cannot be changed in place."""
    energies = torch.tensor([[-1.0, 1.0], [-0.5, 1.2]], dtype=torch.float64)

    def density(mu, rows):
        with torch.inference_mode():
            return _canonical.occupation(energies[rows], mu, KT)

    solved = _canonical.solve_chemical_potential(
        density=density,
        mean=lambda n: n.mean(dim=1),
        filling=0.5,
        kT=KT,
        guess=torch.zeros(2),
        slope=torch.full((2,), 0.01),
        density_tolerance=1e-5,
    )
    assert solved.chemical_potential.tolist() == pytest.approx([0.0, 0.35], abs=1e-6)
    assert solved.residual <= 1e-10


@pytest.mark.parametrize("tilt", [1e-9, 0.0, -1e-9])
@pytest.mark.parametrize("offset", [1e-9, -3e-8, 1e-5])
@pytest.mark.parametrize("kT", [KT, 0.001])
def test_solver_leaves_a_gap_that_holds_no_solution(kT, tilt, offset):
    """Levels at +-6 and an error that offsets the count: the slope from before the gap opened is wrong by many orders."""
    energies = torch.tensor([-6.0] * 50 + [6.0] * 50, dtype=torch.float64)[None]
    solved = _canonical.solve_chemical_potential(
        density=lambda mu, rows: _canonical.occupation(energies[rows], mu, kT) + offset + tilt * mu.tanh()[:, None],
        mean=lambda n: n.mean(dim=1),
        filling=0.5,
        kT=kT,
        guess=torch.zeros(1),
        slope=torch.full((1,), 0.02),
        density_tolerance=1e-5,
    )
    assert solved.residual <= 1e-10
    assert solved.evaluations <= 40


@pytest.mark.parametrize("kT", [0.02, 0.1])
@pytest.mark.parametrize("filling", [0.5, 1 / 64])
@pytest.mark.parametrize("where", [0.05, 0.3, 0.6, 0.95])
def test_solver_crosses_the_plateau_of_a_gap(kT, filling, where):
    """A residual just above the goal that does not change with ``mu``: steps must grow, and be longer than round-off."""
    energies = torch.linspace(-20.0, 20.0, 64, dtype=torch.float64)[None].clone()
    below = round(filling * 64)
    energies[:, below:] += 3.0
    edge = energies[0, below - 1]
    solved = _canonical.solve_chemical_potential(
        density=lambda mu, rows: _canonical.occupation(energies[rows], mu, kT),
        mean=lambda n: n.mean(dim=1) + 1.2 * 10 * 2.2e-16 * filling * (n[:, below] > 1e-18),
        filling=filling,
        kT=kT,
        guess=(edge + where * (energies[0, below] - edge)).reshape(1),
        slope=torch.full((1,), 0.02),
        density_tolerance=0.0,
    )
    assert solved.evaluations <= 60


def random_q(std=5.27):
    return std * torch.randn(12, 10, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def atomic_forces(ensemble):
    lattice = square.build((12, 10))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    return atomic.build(atomic.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), ensemble)


@pytest.mark.parametrize("kT", [0.0, 0.1, 2.0])
def test_atomic_closed_form(kT):
    q = random_q()
    result = atomic_forces(Ensemble("grand-canonical", kT, chemical_potential=1.5))(State.at_rest(q))
    above = [G * x + 1.5 for x in q.flatten().tolist()]  # mu - e of each site
    n = [(1.0 if x > 0 else 0.0) if kT == 0 else 0.5 * (1 + math.tanh(x / (2 * kT))) for x in above]
    assert torch.allclose(result.density.flatten(), torch.tensor(n, dtype=torch.float64), atol=1e-13)
    omega = sum(-max(x, 0.0) - (kT * math.log1p(math.exp(-abs(x) / kT)) if kT else 0.0) for x in above)
    assert float(result.grand_potential) == pytest.approx(omega, abs=1e-9)


@pytest.mark.parametrize("kT", [0.0, 1e-3, 0.1, 2.0])
@pytest.mark.parametrize("filling", [0.5, 0.25, 0.7])
def test_atomic_canonical(kT, filling):
    q = random_q()
    result = atomic_forces(Ensemble("canonical", kT, filling=filling))(State.at_rest(q))
    assert float(result.density.sum()) == pytest.approx(filling * 120, abs=1e-10)
    if kT == 0:  # the sites of largest Q hold an electron each
        filled = q.flatten().argsort(descending=True)[: round(filling * 120)]
        expected = torch.zeros(120).double().index_fill(0, filled, 1.0)
        assert torch.allclose(result.density.flatten(), expected, atol=1e-12)


def test_atomic_half_filling_is_odd():
    q = random_q()
    provider = atomic_forces(CANONICAL)
    plus, minus = provider(State.at_rest(q)), provider(State.at_rest(-q))
    assert torch.allclose(plus.force, -minus.force, atol=1e-10)


def test_atomic_force_is_the_gradient_of_the_potential():
    q, step = random_q(std=0.3), 1e-5
    provider = atomic_forces(Ensemble("grand-canonical", 0.1, chemical_potential=0.2))
    force = provider(State.at_rest(q)).force
    for site in ((0, 0), (11, 9), (5, 3)):
        energy = []
        for sign in (1, -1):
            moved = q.clone()
            moved[site] += sign * step
            ghosted = provider.domain.pad(moved, 1)
            classical = provider.hamiltonian.energy(ghosted, 1).sum()
            energy.append(float(provider(State.at_rest(moved)).grand_potential + classical))
        assert float(force[site]) == pytest.approx(-(energy[0] - energy[1]) / (2 * step), abs=1e-7)
