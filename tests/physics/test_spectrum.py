"""Densities of states and grand potential against the levels of dense matrices, closed forms and energy differences."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, kpm
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.output.spectrum import SpectrumOptions, probed, spectrum
from hpc_holstein.training.dataset import read

QUENCH = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
KT = 0.1
ENSEMBLES = {
    "half": Ensemble("canonical", KT),
    "doped": Ensemble("canonical", KT, filling=0.37),
    "grand": Ensemble("grand-canonical", KT, chemical_potential=0.7),
}


def system(extent, **parameters):
    lattice = square.build(extent)
    return holstein.build(holstein.Options(**parameters), lattice), CartesianDomain(lattice, SerialTransport())


def random_q(extent, spread=2.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64)


@cache
def reference(number: int, ensemble: Ensemble):
    """``mu``, filling, ``Omega`` and ``Omega + mu n`` per site by exact diagonalization."""
    result = exact.build(exact.Options(), *system((20, 20)), ensemble)(State.at_rest(quench(number)))
    mu, filling, omega = float(result.chemical_potential), float(result.density.mean()), float(result.grand_potential) / 400
    return {"chemical_potential": mu, "filling": filling, "grand_potential": omega, "free_energy": omega + mu * filling}


@cache
def quench(number: int) -> torch.Tensor:
    return torch.from_numpy(np.asarray(read(QUENCH).q[number], dtype=np.float64))[..., None, None].contiguous()


def levels(q, t=1.0, g=3.5):
    """Eigenvalues and eigenvectors of ``H(q)`` on a torus by NumPy alone."""
    rows, columns = q.shape[:2]
    site = np.arange(rows * columns).reshape(rows, columns)
    H = np.diag(-g * q.numpy().ravel())
    for axis in (0, 1):
        for step in (1, -1):
            np.add.at(H, (site.ravel(), np.roll(site, step, axis).ravel()), -t)
    return np.linalg.eigh(H)


def kernel(name, M, decay=4.0):
    """The factors as the review of Weisse et al. prints them, one by one."""
    if name == "lorentz":
        return [np.sinh(decay * (1 - m / M)) / np.sinh(decay) for m in range(M)]
    s = np.pi / (M + 1)
    return [((M - m + 1) * np.cos(m * s) + np.sin(m * s) / np.tan(s)) / (M + 1) for m in range(M)]


def broadened(found, name, energies, e, weights):
    """``sum_k w_k K(E, e_k)`` of levels ``e`` with the kernel of ``found``: ``T_m(x) T_m(x_k)`` summed in the open."""
    a, b = found.interval.centre, found.interval.half_width
    x, angles = (energies - a) / b, np.arccos((e - a) / b)
    g = kernel(name, len(found.damping))
    series = [(2 if m else 1) * g[m] * (weights @ np.cos(m * angles)) for m in range(len(g))]
    return chebval(x, series) / (np.pi * b * np.sqrt(1 - x**2))


@pytest.mark.parametrize("name", ["jackson", "lorentz"])
def test_local_densities_are_those_of_the_levels_and_sum_to_the_total(name):
    hamiltonian, domain = system((6, 8))
    q = random_q((6, 8))
    found = spectrum(hamiltonian, domain, q, SpectrumOptions(kernel=name, resolution=0.5, vectors=2), KT, at=range(48))
    energies = np.linspace(found.interval.low + 0.01, found.interval.high - 0.01, 300)
    local = found.local_density_of_states(energies)
    e, v = levels(q)
    for site in (0, 13, 47):
        assert local[site] == pytest.approx(broadened(found, name, energies, e, v[site] ** 2), abs=1e-12)
    whole = broadened(found, name, energies, e, np.full(48, 1 / 48))
    assert local.mean(axis=0) == pytest.approx(whole, abs=1e-12)
    assert whole.min() > -1e-12


@pytest.mark.parametrize("name", ["jackson", "lorentz"])
def test_total_density_and_its_integral_lie_within_their_error_bars(name):
    hamiltonian, domain = system((20, 20))
    q = quench(4)
    found = spectrum(hamiltonian, domain, q, SpectrumOptions(kernel=name, resolution=1.0, vectors=24, seed=5), 0.0)
    energies = found.energies()
    e, _ = levels(q)
    curve, exact_curve = found.density_of_states(energies), broadened(found, name, energies, e, np.full(400, 1 / 400))
    deviation = np.abs(curve.value - exact_curve) / (curve.error + 1e-9)
    assert 0.3 < np.sqrt(np.mean(deviation[curve.error > 1e-5] ** 2)) < 2
    ends = [found.integrated(energies[1:-1] + step).value for step in (1e-3, -1e-3)]
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(curve.value[1:-1], abs=1e-5)
    angles = np.pi * (np.arange(4096) + 0.5) / 4096
    nodes = found.interval.centre + found.interval.half_width * np.cos(angles)
    weights = np.pi * found.interval.half_width * np.sin(angles) / 4096
    assert weights @ found.density_of_states(nodes).value == pytest.approx(1, abs=1e-12)
    assert found.integrated(nodes[:1]).value == pytest.approx(1, abs=1e-3)
    assert found.integrated(nodes[-1:]).value == pytest.approx(0, abs=1e-3)


def test_every_site_of_free_electrons_has_the_density_of_states_of_the_band():
    """``Q = 0``: levels ``-2t (cos kx + cos ky)``, and all sites are alike."""
    hamiltonian, domain = system((12, 16), t=0.8)
    q = torch.zeros(12, 16, 1, 1, dtype=torch.float64)
    found = spectrum(hamiltonian, domain, q, SpectrumOptions(resolution=0.3, vectors=2), 0.0, at=(0, 100))
    ky, kx = 2 * np.pi * np.arange(12) / 12, 2 * np.pi * np.arange(16) / 16
    band = -1.6 * (np.cos(ky)[:, None] + np.cos(kx)).ravel()
    energies = found.energies()
    wanted = broadened(found, "jackson", energies, band, np.full(192, 1 / 192))
    for local in found.local_density_of_states(energies):
        assert local == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("jackson", lambda E, width: np.exp(-(E**2) / (2 * width**2)) / (np.sqrt(2 * np.pi) * width)),
        ("lorentz", lambda E, width: width / (np.pi * (E**2 + width**2))),
    ],
)
def test_a_level_has_the_width_that_is_asked_for(name, shape):
    """Atomic limit: one level a site, in the middle of the spectrum near-Gaussian or near-Lorentzian of that width."""
    hamiltonian, domain = system((4, 4), t=0.0)
    q = torch.linspace(-3, 3, 16, dtype=torch.float64).reshape(4, 4, 1, 1)
    q[1, 1] = 0.0
    width = 0.1
    found = spectrum(
        hamiltonian, domain, q, SpectrumOptions(kernel=name, resolution=width, lorentz_lambda=6, vectors=2), 0.0, at=(5,)
    )
    energies = np.linspace(-3 * width, 3 * width, 61)
    peak = found.local_density_of_states(energies)[0]
    assert np.abs(peak - shape(energies, width)).max() < 0.03 * shape(0, width)


@pytest.mark.parametrize(("number", "name"), [(0, "doped"), (4, "half"), (20, "half"), (20, "grand")])
def test_random_vectors_err_as_their_error_bars_say(number, name):
    """Mean square deviation in units of the error bar, over independent seeds, hot and ordered."""
    hamiltonian, domain = system((20, 20))
    q = quench(number)
    ensemble = ENSEMBLES[name]
    truth = reference(number, ensemble)
    deviations = {quantity: [] for quantity in truth}
    for seed in range(8):
        options = SpectrumOptions(resolution=1.0, vectors=8, seed=seed)
        found = spectrum(hamiltonian, domain, q, options, KT).thermodynamics(ensemble)
        for quantity, value in truth.items():
            estimate = getattr(found, quantity)
            deviations[quantity].append((estimate.value - value) / max(estimate.error, 1e-12))
    known = {"filling"} if ensemble.kind == "canonical" else {"chemical_potential"}
    for quantity, row in deviations.items():
        if quantity in known:
            assert np.abs(row).max() < 1e-3
        else:
            assert (np.abs(row) < 3).sum() >= 7, quantity
    assert 0.4 < np.sqrt(np.mean(np.square(deviations["free_energy"]))) < 2


@pytest.mark.parametrize(
    ("number", "tolerance", "name"),
    [(0, 1e-3, "half"), (4, 1e-3, "grand"), (4, 1e-6, "doped"), (20, 1e-3, "half"), (20, 1e-6, "grand"), (20, 1e-3, "doped")],
)
def test_coloured_vectors_meet_the_tolerance(number, tolerance, name):
    hamiltonian, domain = system((20, 20))
    q, ensemble = quench(number), ENSEMBLES[name]
    wanted = reference(number, ensemble)
    found = probed(kpm.build(kpm.Options(tolerance=tolerance), hamiltonian, domain, ensemble), q)
    assert abs(found.free_energy.value - wanted["free_energy"]) <= found.free_energy.error <= tolerance
    assert abs(found.filling.value - wanted["filling"]) <= tolerance
    e, _ = levels(q)
    at_this_mu = -KT * np.logaddexp(0, (found.chemical_potential.value - e) / KT).mean()
    assert abs(found.grand_potential.value - at_this_mu) <= found.grand_potential.error


def test_forces_are_energy_differences():
    """``dOmega/dQ_i = -g n_i`` at fixed mu and ``d(Omega + mu N)/dQ_i = -g n_i`` at fixed filling, with probing at work."""
    hamiltonian, domain = system((20, 20))
    q = quench(4)
    for name in ("grand", "half"):
        ensemble = ENSEMBLES[name]
        forces = kpm.build(kpm.Options(tolerance=1e-4), hamiltonian, domain, ensemble)
        density = forces(State.at_rest(q)).density
        for site in ((0, 0), (7, 12)):
            ends = []
            for step in (1e-2, -1e-2):
                moved = q.clone()
                moved[site] += step
                found = probed(forces, moved)
                ends.append(400 * (found.grand_potential if name == "grand" else found.free_energy).value)
            assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(-3.5 * float(density[site]), abs=2e-3)
