"""Exact forces against closed forms, an independent plain-loop reference, and decomposed runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import exact
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square

KT, G, K, KAPPA = 0.1, 3.5, 1.0, 0.18


def provider(extent, ensemble, periodic=(True, True), **parameters) -> ExactForces:
    lattice = square.build(extent, periodic)
    hamiltonian = holstein.build(holstein.Options(**parameters), lattice)
    return exact.build(exact.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), ensemble)


def forces(q, ensemble, periodic=(True, True), **parameters) -> ForceResult:
    q = torch.as_tensor(q, dtype=torch.float64)
    return provider(tuple(q.shape[-2:]), ensemble, periodic, **parameters)(State.at_rest(q[..., None, None]))


def canonical(kT: float = KT, filling: float = 0.5) -> Ensemble:
    return Ensemble("canonical", kT, filling=filling)


def grand(mu: float = 0.0, kT: float = KT) -> Ensemble:
    return Ensemble("grand-canonical", kT, chemical_potential=mu)


def random_q(extent, seed=0, spread=1.5) -> torch.Tensor:
    return spread * torch.randn(extent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fermi(x, kT):
    return 1 / (1 + np.exp(np.asarray(x) / kT))


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_atomic_limit():
    """t = 0: n = f(-g Q - mu) site by site, Omega the sum of the single-site ones."""
    q, mu = random_q((3, 5)), 0.4
    result = forces(q, grand(mu), t=0.0)
    np.testing.assert_allclose(result.density[..., 0], fermi(-G * q - mu, KT), atol=1e-13)
    omega = -KT * np.log1p(np.exp((G * q.numpy() + mu) / KT)).sum()
    assert float(result.grand_potential) == pytest.approx(omega, abs=1e-11)
    q = q.numpy()
    neighbours = sum(np.roll(q, s, a) for s in (1, -1) for a in (0, 1))
    force = G * (fermi(-G * q - mu, KT) - 0.5) - K * q - KAPPA * neighbours
    np.testing.assert_allclose(result.force[..., 0, 0], force, atol=1e-12)


@pytest.mark.parametrize("periodic", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("kT", [0.0, KT, 2.0])
def test_dimer(periodic, kT):
    """Two sites, levels m +- sqrt(d^2 + t'^2), m +- d the on-site ones; a periodic pair is bonded twice (t' = 2t).

    The periodic axis of one site adds -2t to both sites.  One electron in two levels has mu = m at any temperature.
    """
    q1, q2 = 0.37, -0.21
    t_pair = 2.0 if periodic[1] else 1.0
    self_bond = -2.0 if periodic[0] else 0.0
    m, d = -G * (q1 + q2) / 2 + self_bond, -G * (q1 - q2) / 2
    split = math.hypot(d, t_pair)

    for ensemble, mu in ((canonical(kT), m), (grand(0.3, kT), 0.3)):
        result = forces([[q1, q2]], ensemble, periodic)
        f_low, f_high = (fermi(e - mu, kT) if kT else float(e < mu) for e in (m - split, m + split))
        mean, odd = (f_low + f_high) / 2, d / split * (f_high - f_low) / 2
        np.testing.assert_allclose(result.density.flatten(), [mean + odd, mean - odd], atol=1e-13)
        assert float(result.chemical_potential) == pytest.approx(mu, abs=1e-13)


def plane_waves(extent, q0):
    """``E = -2t (cos kx + cos ky) - g Q0`` on all wave vectors of a periodic lattice."""
    ky, kx = (2 * np.pi * np.arange(n) / n for n in extent)
    return np.sort((-2 * (np.cos(ky)[:, None] + np.cos(kx)) - G * q0).ravel())


@pytest.mark.parametrize("extent", [(4, 6), (5, 3), (1, 6), (2, 2)])
@pytest.mark.parametrize("q0", [0.0, 0.3])
def test_free_electrons(extent, q0):
    energies, mu = plane_waves(extent, q0), -0.6
    result = forces(torch.full(extent, q0, dtype=torch.float64), grand(mu))
    np.testing.assert_allclose(result.density, fermi(energies - mu, KT).mean(), atol=1e-13)
    assert float(result.grand_potential) == pytest.approx(-KT * np.log1p(np.exp(-(energies - mu) / KT)).sum(), abs=1e-10)


def test_free_electrons_at_zero_temperature_share_the_fermi_level():
    """4x4 at half filling: the Fermi level at E = 0 is degenerate and half filled, mu is on it."""
    result = forces(torch.zeros(4, 4), canonical(0.0))
    np.testing.assert_allclose(result.density, 0.5, atol=1e-13)
    assert float(result.chemical_potential) == pytest.approx(0, abs=1e-12)
    assert float(result.grand_potential) == pytest.approx(np.minimum(plane_waves((4, 4), 0), 0).sum(), abs=1e-11)


@pytest.mark.parametrize("kT", [0.0, KT])
def test_staggered_field_has_the_gap_of_the_cdw(kT):
    """Q = Q0 (-1)^(x+y): E = +-sqrt(eps^2 + (g Q0)^2), and n_A - n_B = mean over k of (g Q0 / E) tanh(E / 2kT)."""
    extent, q0 = (6, 4), 0.25
    sign = (-1.0) ** np.add.outer(np.arange(6), np.arange(4))
    gap = np.hypot(plane_waves(extent, 0), G * q0)
    result = forces(q0 * sign, canonical(kT))
    thermal = np.tanh(gap / (2 * kT)) if kT else 1.0
    expected = 0.5 + 0.5 * sign * (G * q0 / gap * thermal).mean()
    np.testing.assert_allclose(result.density[..., 0], expected, atol=1e-13)
    omega = -kT * np.log(2 * np.cosh(gap / (2 * kT))).sum() if kT else -gap.sum() / 2
    assert float(result.grand_potential) == pytest.approx(omega, abs=1e-11)


# --- an independent route ---------------------------------------------------------------------------------------------


def plain_reference(q, kT, filling, periodic, t, g, k, kappa):
    """Canonical force and density by explicit loops over sites and states; mu by bisection of sum f."""
    rows, columns = q.shape
    hamiltonian = np.zeros((rows * columns, rows * columns))
    force = np.zeros_like(q)
    for y in range(rows):
        for x in range(columns):
            i = y * columns + x
            hamiltonian[i, i] += -g * q[y, x]
            force[y, x] += -k * q[y, x] - g / 2
            for dy, dx in ((0, 1), (1, 0)):
                yy, xx = y + dy, x + dx
                if (yy >= rows and not periodic[0]) or (xx >= columns and not periodic[1]):
                    continue
                yy, xx = yy % rows, xx % columns
                j = yy * columns + xx
                hamiltonian[i, j] -= t
                hamiltonian[j, i] -= t
                force[y, x] -= kappa * q[yy, xx]
                force[yy, xx] -= kappa * q[y, x]
    energies, states = np.linalg.eigh(hamiltonian)
    low, high = energies[0] - 50, energies[-1] + 50
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if fermi(np.clip(energies - mu, -30, 30), kT).sum() < filling * q.size else (low, mu)
    occupation = fermi(np.clip(energies - mu, -60, 60), kT)
    density = np.zeros(q.size)
    for i in range(q.size):
        for level in range(q.size):
            density[i] += states[i, level] ** 2 * occupation[level]
    return force + g * density.reshape(q.shape), density.reshape(q.shape), mu


@pytest.mark.parametrize("periodic", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("extent", "filling"), [((4, 4), 0.5), ((3, 5), 0.37), ((2, 4), 0.5), ((1, 6), 0.25), ((1, 2), 0.4)])
def test_plain_loop_reference(extent, filling, periodic):
    q = random_q(extent, seed=11)
    parameters = {"t": 0.9, "g": 2.5, "k": 0.8, "kappa": -0.3}
    force, density, mu = plain_reference(q.numpy(), 0.15, filling, periodic, **parameters)
    result = forces(q, canonical(0.15, filling), periodic, **parameters)
    np.testing.assert_allclose(result.force[..., 0, 0], force, atol=1e-9)
    np.testing.assert_allclose(result.density[..., 0], density, atol=1e-9)
    assert float(result.chemical_potential) == pytest.approx(mu, abs=1e-9)
    assert float(result.density.sum()) == pytest.approx(filling * q.numel(), abs=1e-12)


# --- the provider as such ---------------------------------------------------------------------------------------------


def test_batch_is_snapshot_by_snapshot():
    q = random_q((2, 3, 4, 4))
    together = forces(q, canonical())
    assert together.force.shape == (2, 3, 4, 4, 1, 1)
    assert together.density.shape == (2, 3, 4, 4, 1)
    assert together.chemical_potential.shape == together.grand_potential.shape == (2, 3)
    alone = forces(q[1, 2], canonical())
    assert alone.chemical_potential.shape == ()
    torch.testing.assert_close(together.force[1, 2], alone.force, rtol=0, atol=0)
    torch.testing.assert_close(together.grand_potential[1, 2], alone.grand_potential, rtol=0, atol=0)


def test_float32_positions_are_solved_in_float64():
    q = random_q((4, 4)).to(torch.float32)
    solver = provider((4, 4), canonical())
    single = solver(State.at_rest(q[..., None, None]))
    double = solver(State.at_rest(q.to(torch.float64)[..., None, None]))
    assert single.force.dtype == torch.float32
    torch.testing.assert_close(single.force, double.force.to(torch.float32), rtol=0, atol=0)
    assert float(single.chemical_potential) == float(double.chemical_potential)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("periodic", [(True, True), (False, True)])
def test_decomposed_equals_serial(ranks, periodic):
    """Tiles of uneven width; every rank has the same mu and Omega."""
    q = random_q((6, 5))[..., None, None]
    lattice = square.build((6, 5), periodic)
    hamiltonian = holstein.build(holstein.Options(), lattice)

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        owned = q[tuple(slice(*span) for span in domain.owned)].contiguous()
        result = exact.build(exact.Options(), hamiltonian, domain, canonical())(State.at_rest(owned))
        return domain.owned, result

    whole = forces(q[..., 0, 0], canonical(), periodic)
    for owned, part in run_in_process(ranks, body):
        tile = tuple(slice(*span) for span in owned)
        torch.testing.assert_close(part.force, whole.force[tile], rtol=0, atol=1e-13)
        torch.testing.assert_close(part.density, whole.density[tile], rtol=0, atol=1e-13)
        torch.testing.assert_close(part.chemical_potential, whole.chemical_potential, rtol=0, atol=0)
        torch.testing.assert_close(part.grand_potential, whole.grand_potential, rtol=0, atol=0)


@pytest.mark.parametrize("filling", [0.0, 1.0, -0.2, 1.5, math.nan])
def test_filling_outside_the_band_is_refused(filling):
    with pytest.raises(SpectrumError, match=f"filling = {filling}"):
        provider((2, 2), canonical(filling=filling))


def test_negative_temperature_is_refused():
    with pytest.raises(SpectrumError, match=r"kT = -0\.1"):
        provider((2, 2), canonical(kT=-0.1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_coordinates_that_are_not_numbers_are_refused(bad):
    q = random_q((4, 4))
    q[1, 2] = bad
    with pytest.raises(SpectrumError, match="step 0 hold NaN or infinity"):
        forces(q, canonical())


def test_matrix_that_cannot_fit_is_refused_before_it_is_made():
    with pytest.raises(ConfigError, match=r"1000000 states needs .* GiB"):
        provider((1000, 1000), canonical())
