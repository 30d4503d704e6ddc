"""Occupation of a spectrum: sums to round-off, chemical potentials in closed form, the limits at kT = 0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpc_holstein.forces import _filling

TEMPERATURES = (0.0, 1e-6, 0.01, 0.1, 1.0, 50.0)


def spectrum(levels: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).normal(0, 12, levels))


@pytest.mark.parametrize("kT", TEMPERATURES)
@pytest.mark.parametrize("filling", [1e-7, 0.013, 0.3, 0.5, 0.77, 1 - 1e-7])
def test_electron_number_is_kept_to_round_off(filling, kT):
    energies = spectrum(400, 1)
    mu, f = _filling.fill(energies, filling * 400, kT)
    sharp = 400 * np.spacing(np.abs(energies).max()) / max(kT, 1e-300) if 0 < kT < 1e-3 else 0  # mu itself is rounded
    assert f.sum() == pytest.approx(filling * 400, rel=1e-13, abs=1e-12 + sharp)
    assert np.isfinite(mu)
    assert f.min() >= 0
    assert f.max() <= 1


def test_gap_wide_against_kT_gives_the_mid_gap_and_its_entropy_shift():
    """Three levels below a gap of 1,000 kT and two above: mu = middle + kT/2 ln(3/2), invisible to sum f itself."""
    kT = 0.01
    energies = np.array([-5.0, -5.0, -5.0, 5.0, 5.0])
    mu, _ = _filling.fill(energies, 3.0, kT)
    assert mu == pytest.approx(0.5 * kT * math.log(3 / 2), abs=1e-14)


def test_rounded_filling_is_the_integer_it_means():
    energies = np.array([-4.0] * 3 + [4.0] * 7)
    mu, _ = _filling.fill(energies, float(np.nextafter(3.0, 4.0)), 0.01)
    assert mu == pytest.approx(0.5 * 0.01 * math.log(3 / 7), abs=1e-14)


def test_two_levels_closed_form():
    """N_e = 1 on levels +-d: mu = 0 at any temperature; N_e = 1/2 has mu from a quadratic equation."""
    energies = np.array([-0.7, 0.7])
    for kT in (0.01, 0.3, 5.0):
        assert _filling.fill(energies, 1.0, kT)[0] == pytest.approx(0, abs=1e-14)
    kT, b = 0.3, math.cosh(0.7 / 0.3)
    z = (-b + math.sqrt(b * b + 3)) / 3  # 3 z^2 + 2 b z - 1 = 0 with z = exp(mu / kT)
    assert _filling.fill(energies, 0.5, kT)[0] == pytest.approx(kT * math.log(z), abs=1e-13)


def test_particle_hole_reflection_of_the_chemical_potential():
    energies = spectrum(301, 2)
    for kT in (0.0, 0.05, 2.0):
        mu, f = _filling.fill(energies, 120.4, kT)
        mirrored, holes = _filling.fill(-energies[::-1], 301 - 120.4, kT)
        assert mirrored == pytest.approx(-mu, abs=1e-11)
        np.testing.assert_allclose(holes[::-1], 1 - f, atol=1e-11)


def test_ground_state_shares_a_degenerate_level():
    energies = np.array([-2.0, 1.0, 1.0 + 1e-14, 1.0, 3.0])
    mu, f = _filling.fill(energies, 2.0, 0.0)
    assert mu == pytest.approx(1.0)
    np.testing.assert_allclose(f, [1, 1 / 3, 1 / 3, 1 / 3, 0], atol=1e-14)


def test_ground_state_of_a_gapped_spectrum_is_mid_gap():
    mu, f = _filling.fill(np.array([-2.0, -1.0, 4.0]), 2.0, 0.0)
    assert mu == pytest.approx(1.5)
    np.testing.assert_array_equal(f, [1, 1, 0])


def test_grand_canonical_limit_at_zero_temperature():
    energies = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(_filling.fermi(energies, 0.0, 0.0), [1, 0.5, 0])
    np.testing.assert_allclose(_filling.fermi(energies, 0.0, 1e-3), [1, 0.5, 0], atol=1e-12)
    assert _filling.grand_potential(energies, 0.5, 0.0) == pytest.approx(-2.0)
    assert _filling.grand_potential(energies, 0.5, 1e-4) == pytest.approx(-2.0, abs=1e-12)


def test_density_is_minus_the_derivative_of_the_grand_potential():
    energies, mu, kT, h = spectrum(50, 3), 0.4, 0.2, 1e-5
    slope = (_filling.grand_potential(energies, mu + h, kT) - _filling.grand_potential(energies, mu - h, kT)) / (2 * h)
    assert _filling.fermi(energies, mu, kT).sum() == pytest.approx(-slope, abs=1e-8)


def test_extreme_arguments_stay_finite():
    energies = np.array([-1e6, 1e6])
    assert _filling.grand_potential(energies, 0.0, 1e-3) == pytest.approx(-1e6)
    np.testing.assert_array_equal(_filling.fermi(energies, 0.0, 1e-3), [1, 0])
