"""Identities that hold for any field: F = -dOmega/dQ, the symmetries of lattice and particle-hole, the shifted field."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.fields import Field
from hpc_holstein.forces import exact
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, displaced
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.lattice._bravais import BravaisLattice

KT, G = 0.1, 3.5
PERIODIC = (True, True)


def make(extent, ensemble, periodic=PERIODIC) -> ExactForces:
    lattice = square.build(extent, periodic)
    domain = CartesianDomain(lattice, SerialTransport())
    return exact.build(exact.Options(), holstein.build(holstein.Options(), lattice), domain, ensemble)


def solve(q: Tensor, ensemble: Ensemble) -> ForceResult:
    return make(tuple(q.shape[-2:]), ensemble)(State.at_rest(q[..., None, None]))


def canonical(kT: float = KT, filling: float = 0.5) -> Ensemble:
    return Ensemble("canonical", kT, filling=filling)


def grand(mu: float = 0.0, kT: float = KT) -> Ensemble:
    return Ensemble("grand-canonical", kT, chemical_potential=mu)


ENSEMBLES = {
    "canonical half": canonical(),
    "canonical third": canonical(filling=1 / 3),
    "canonical ground state": canonical(0.0),
    "grand-canonical": grand(0.37),
    "grand-canonical ground state": grand(0.37, 0.0),
}
each_ensemble = pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES.keys())


def random_q(extent=(6, 6), seed=0, spread=1.5) -> Tensor:
    return spread * torch.randn(extent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_ensemble
@pytest.mark.parametrize("periodic", [(True, True), (False, True)])
def test_force_is_minus_the_derivative_of_the_free_energy(ensemble, periodic):
    """``F = -d(V + Omega)/dQ`` at fixed mu and ``-d(V + Omega + mu N)/dQ`` at fixed N, by central differences of 8 sites."""
    extent, h = (4, 6), 1e-4
    q = random_q(extent, seed=4)
    provider = make(extent, ensemble, periodic)
    electrons = ensemble.filling * q.numel() if ensemble.kind == "canonical" else 0.0

    def free_energy(field: Tensor) -> Tensor:
        result = provider(State.at_rest(field[..., None, None]))
        padded = provider.domain.pad(field[..., None, None], 1)
        potential = provider.hamiltonian.energy(padded, 1).sum(dim=(-2, -1))
        return potential + result.grand_potential + electrons * result.chemical_potential

    force = provider(State.at_rest(q[..., None, None])).force[..., 0, 0].flatten()
    sites = torch.arange(0, q.numel(), 3)
    kicks = torch.zeros(len(sites), q.numel(), dtype=torch.float64)
    kicks[torch.arange(len(sites)), sites] = 1.0
    kicks = kicks.reshape(-1, *extent)
    # the fourth-order central difference: at kT = 0.1 the second-order one is limited by the third derivative of f
    slope = (
        sum(w * (free_energy(q + s * h * kicks) - free_energy(q - s * h * kicks)) for s, w in ((1, 8 / 12), (2, -1 / 12))) / h
    )
    np.testing.assert_allclose(force[sites], -slope, atol=1e-7)


@each_ensemble
def test_point_group(ensemble):
    """``F(g Q) = g F(Q)`` for all eight elements of D4, acting as ``(g Q)(g r) = Q(r)`` on a square."""
    q = random_q((5, 5), seed=1)
    cells = np.indices((5, 5)).reshape(2, -1)
    group = square.build((5, 5)).point_group
    images, targets = [], []
    for element in group.array:
        y, x = (element @ cells) % 5
        image = torch.empty_like(q)
        image[y, x] = q.flatten()
        images.append(image)
        targets.append((y, x))
    results = solve(torch.stack(images), ensemble).force[..., 0, 0]
    assert len(results) == 8
    for result, (y, x) in zip(results, targets, strict=True):
        torch.testing.assert_close(result[y, x].reshape(5, 5), results[0], rtol=0, atol=1e-10)


@each_ensemble
def test_translations(ensemble):
    q = random_q((4, 5), seed=2)
    steps = [(dy, dx) for dy in range(4) for dx in range(5)]
    moved = solve(torch.stack([torch.roll(q, step, (0, 1)) for step in steps]), ensemble).force[..., 0, 0]
    expected = torch.stack([torch.roll(moved[0], step, (0, 1)) for step in steps])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kT", [0.0, KT])
def test_particle_hole_at_fixed_chemical_potential(kT):
    """``n(-Q, -mu) = 1 - n(Q, mu)``, and ``Omega(-Q, -mu) = Omega(Q, mu) + g sum Q + mu N``, on a bipartite lattice."""
    q, mu = random_q(seed=3), 0.8
    straight, mirrored = solve(q, grand(mu, kT)), solve(-q, grand(-mu, kT))
    torch.testing.assert_close(mirrored.density, 1 - straight.density, rtol=0, atol=1e-10)
    expected = straight.grand_potential + G * q.sum() + mu * q.numel()
    torch.testing.assert_close(mirrored.grand_potential, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kT", [0.0, KT])
def test_half_filled_force_is_odd(kT):
    q = random_q(seed=3)
    straight, mirrored = solve(q, canonical(kT)), solve(-q, canonical(kT))
    torch.testing.assert_close(mirrored.force, -straight.force, rtol=0, atol=1e-10)
    torch.testing.assert_close(mirrored.chemical_potential, -straight.chemical_potential, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kT", [0.0, KT])
def test_density_depends_on_the_shifted_field_alone(kT):
    """``n(Q; mu) = n(Q + mu/g; 0)``; a canonical run sees a uniform shift of ``Q`` in ``mu`` only."""
    q, mu = random_q(seed=5), -0.9
    torch.testing.assert_close(solve(q, grand(mu, kT)).density, solve(q + mu / G, grand(0.0, kT)).density, rtol=0, atol=1e-10)
    plain, shifted = solve(q, canonical(kT, 0.4)), solve(q + 0.7, canonical(kT, 0.4))
    torch.testing.assert_close(shifted.density, plain.density, rtol=0, atol=1e-10)
    torch.testing.assert_close(shifted.chemical_potential, plain.chemical_potential - 0.7 * G, rtol=0, atol=1e-10)


def test_canonical_and_grand_canonical_agree_at_the_same_chemical_potential():
    q = random_q(seed=6)
    fixed_number = solve(q, canonical(filling=0.3))
    fixed_mu = solve(q, grand(float(fixed_number.chemical_potential)))
    torch.testing.assert_close(fixed_mu.force, fixed_number.force, rtol=0, atol=1e-12)
    torch.testing.assert_close(fixed_mu.grand_potential, fixed_number.grand_potential, rtol=0, atol=1e-11)


def test_zero_temperature_is_the_limit():
    q = random_q(seed=7)
    ground, cold = solve(q, canonical(0.0)), solve(q, canonical(1e-4))
    torch.testing.assert_close(cold.density, ground.density, rtol=0, atol=1e-9)


# --- a Hamiltonian whose coordinates sit on the bonds: rho is needed off the diagonal too -------------------------------


class BondModel(LatticeHamiltonian):
    """``H = -sum_b (1 - alpha q_b) (c_i^+ c_j + h.c.)`` and ``V = sum_b q_b^2 / 2``: coordinates on the bonds."""

    name, alpha, coordinates = "bond model", 0.4, Field("q", "a", "bond coordinate")
    parameters: ClassVar[dict[str, float]] = {}

    def __init__(self, lattice: BravaisLattice) -> None:
        super().__init__(lattice, 2, lattice.bonds(1))

    def matrix(self, ghosted_q: Tensor, halo: int) -> Tensor:
        q = displaced(ghosted_q, halo, (0, 0))[..., 0, :]
        return torch.cat([torch.zeros_like(q[..., :1]), -(1 - self.alpha * q)], dim=-1)

    def energy(self, ghosted_q: Tensor, halo: int) -> Tensor:
        return 0.5 * displaced(ghosted_q, halo, (0, 0)).square().sum(dim=(-2, -1))


@pytest.mark.parametrize("periodic", [(True, True), (True, False)])
@pytest.mark.parametrize("extent", [(4, 3), (2, 2)])
def test_force_on_bond_coordinates(extent, periodic):
    """``-Tr[rho dH/dq]`` with the bond order ``rho_ij``; the bonds that an open edge drops carry none."""
    lattice = square.build(extent, periodic)
    ensemble = grand(0.2)
    provider = exact.build(exact.Options(), BondModel(lattice), CartesianDomain(lattice, SerialTransport()), ensemble)
    q = torch.randn((*extent, 1, 2), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    h, kicks = 1e-4, torch.eye(q.numel(), dtype=torch.float64).reshape(-1, *q.shape)

    def free_energy(field: Tensor) -> Tensor:
        return provider(State.at_rest(field)).grand_potential + 0.5 * field.square().sum(dim=(-4, -3, -2, -1))

    slope = (
        sum(w * (free_energy(q + s * h * kicks) - free_energy(q - s * h * kicks)) for s, w in ((1, 8 / 12), (2, -1 / 12))) / h
    )
    np.testing.assert_allclose(provider(State.at_rest(q)).force.flatten(), -slope, atol=1e-8)
    assert float(provider(State.at_rest(q)).density.sum()) == pytest.approx(electrons(provider, q), abs=1e-8)


def electrons(provider: ExactForces, q: Tensor) -> float:
    """``-dOmega/dmu`` by central differences."""
    mu, h = provider.ensemble.chemical_potential, 1e-5
    omega = [
        exact.build(exact.Options(), provider.hamiltonian, provider.domain, grand(mu + step))(State.at_rest(q)).grand_potential
        for step in (h, -h)
    ]
    return float(omega[1] - omega[0]) / (2 * h)
