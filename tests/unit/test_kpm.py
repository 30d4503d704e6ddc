"""Parts of the KPM forces against closed forms and dense matrices: expansion, bounds, stencil, colours, options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_kpm import CANONICAL, KT, dense, fermi, random_q, system

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import run_in_process
from hpc_holstein.errors import SpectrumError
from hpc_holstein.fields import Field
from hpc_holstein.forces import _probing, kpm
from hpc_holstein.forces._chebyshev import DensityOfStates, Interval, PotentialNodes, fermi_coefficients, fermi_order
from hpc_holstein.forces._kernel_fused import FusedRecurrence
from hpc_holstein.forces._kernel_layout import Layout
from hpc_holstein.forces._kernel_torch import TorchRecurrence
from hpc_holstein.forces._probing import Colouring, Sites, site_signs
from hpc_holstein.forces._stencil import Stencil
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, displaced
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

# --- expansion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_width", [0.3, 5.0, 70.0])
@pytest.mark.parametrize("error", [1e-4, 1e-9])
def test_the_order_that_is_chosen_meets_the_error(half_width, error):
    """At every energy and chemical potential; half the order does not."""
    interval = Interval(-half_width + 1.0, half_width + 1.0)
    terms = fermi_order(interval, KT, error)
    x = np.linspace(-1, 1, 501)
    mu = np.array([1.0, 0.7, 1.0 + 0.9 * half_width])
    exact = fermi(interval.centre + half_width * x - mu[:, None])

    def deviation(count):
        return np.abs(np.polynomial.chebyshev.chebval(x, fermi_coefficients(interval, mu, KT, count).T) - exact).max()

    assert deviation(terms) <= 1.01 * error
    assert half_width < 1 or deviation(terms // 2) > 10 * error


def test_an_absurd_order_is_refused_with_the_number():
    with pytest.raises(SpectrumError, match=r"kT = 1e-05 .* order \d{8}, .* 'exact'"):
        fermi_order(Interval(-30, 30), 1e-5, 1e-9)


def test_moments_tell_electrons_chemical_and_grand_potential():
    rng = np.random.default_rng(0)
    energies, interval = rng.uniform(-4, 6, 50), Interval(-5, 7)
    moments = np.cos(np.outer(np.arange(2000), np.arccos((energies - interval.centre) / interval.half_width))).mean(axis=1)
    states = DensityOfStates(interval, moments, KT)
    assert states.filling(0.4) == pytest.approx(fermi(energies - 0.4).mean(), abs=1e-12)
    assert states.grand_potential(0.4) == pytest.approx(-KT * np.log1p(np.exp((0.4 - energies) / KT)).mean(), abs=1e-11)
    mu = states.chemical_potential(0.3, noise=1e-12)
    assert fermi(energies - mu).mean() == pytest.approx(0.3, abs=1e-12)


def test_chemical_potential_in_a_gap_that_the_noise_fills():
    """Levels at -8 and, three times as many, at 6: mu = -1 + kT/2 ln(1/3) although n(mu) is flat to 1e-30 there."""
    interval, energies = Interval(-9, 7), np.array([-8.0, 6.0, 6.0, 6.0])
    moments = np.cos(np.outer(np.arange(1500), np.arccos((energies - interval.centre) / interval.half_width))).mean(axis=1)
    moments[0] += 2e-10
    mu = DensityOfStates(interval, moments, KT).chemical_potential(0.25, noise=1e-9)
    assert mu == pytest.approx(-1 - 0.5 * KT * math.log(3), abs=0.05)


@pytest.mark.parametrize("radius", [0.02, 0.3, 1.0])
def test_interpolation_between_chemical_potentials(radius):
    nodes = PotentialNodes.around(0.2, radius, KT, 1e-9)
    for mu in (0.2, 0.2 + 0.99 * radius, float(nodes.values[1])):
        assert nodes.hold(mu)
        assert nodes.weights(mu) @ fermi(0.25 - nodes.values) == pytest.approx(fermi(0.25 - mu), abs=2e-9)
    assert not nodes.hold(0.2 + 1.01 * radius)


# --- operator ---------------------------------------------------------------------------------------------------------

OPEN = [(True, True), (True, False), (False, False)]


def unit_vectors(stencil):
    """One vector for each owned site, read at every owned site: ``part.output`` is source site times sites plus target."""
    owned = stencil.owned_cells()
    count = len(owned)
    vector = torch.arange(count).repeat_interleave(count)
    ones, trace = torch.ones(count * count, dtype=torch.float64), torch.eye(count, dtype=torch.float64).reshape(-1)
    return _probing.Readings(count, vector, owned[vector], owned.repeat(count), ones, torch.arange(count * count), trace)


def moments_of(run, part, terms):
    """``[terms, source, target]`` in the order of the sites, and their trace: each order is a function of its own."""
    (sums,), trace = run.sums([torch.eye(terms, dtype=torch.float64)], [part.trace[run.orders[0]]], terms)
    moments = torch.empty(terms, len(part.vector), dtype=torch.float64)
    moments[:, run.orders[0]] = sums
    np.testing.assert_allclose(trace, (moments * part.trace).sum(dim=1), atol=1e-11)
    return moments.reshape(terms, part.vectors, part.vectors).numpy()


@pytest.mark.parametrize("window", [0, 1, 2, 4])  # 0: in tensor operations
@pytest.mark.parametrize("periodic", [*OPEN, (False, True)])
@pytest.mark.parametrize("extent", [(5, 4), (3, 11), (1, 6), (2, 2), (1, 1)])
def test_recurrence_is_the_polynomial_of_the_dense_matrix(extent, periodic, window):
    """Moments and whole vectors; 70 orders are more than are kept at once."""
    hamiltonian, domain = system(extent, periodic)
    q, terms = random_q(extent), 70
    layout = Layout(8, window, (window, 1), fast=8)
    stencil = Stencil(hamiltonian, domain, q, layout.widths if window else None)
    low, high = stencil.bounds()
    energies, states = np.linalg.eigh(dense(q, periodic))
    assert low <= energies[0] + 1e-12
    assert high >= energies[-1] - 1e-12
    interval = Interval.enclosing(low, high)
    part, column = unit_vectors(stencil), np.random.default_rng(0).random(terms).tolist()
    run = (
        FusedRecurrence(stencil, layout, interval, torch.float64, [part], column)
        if window
        else TorchRecurrence(stencil, interval, torch.float64, [part], column)
    )
    whole = np.zeros((len(energies),) * 2)
    for m, moment in enumerate(moments_of(run, part, terms)):
        chebyshev = np.cos(m * np.arccos((energies - interval.centre) / interval.half_width))
        expected = (states * chebyshev) @ states.T
        whole += column[m] * expected
        np.testing.assert_allclose(moment, expected, atol=1e-12)
    np.testing.assert_allclose(run.columns(), whole, atol=1e-11)


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.27])
def test_bounds_are_tight(spread):
    hamiltonian, domain = system((20, 20))
    q = random_q((20, 20), spread)
    low, high = Stencil(hamiltonian, domain, q).bounds()
    energies = np.linalg.eigvalsh(dense(q))
    width = energies[-1] - energies[0]
    assert 0 <= energies[0] - low + 1e-9 <= 0.03 * width
    assert 0 <= high - energies[-1] + 1e-9 <= 0.03 * width


class Bonds(LatticeHamiltonian):
    """A bond on which the coordinate sits: H = -sum (1 + q_r) (c_r^+ c_{r+x} + h.c.); no classical potential."""

    name, coordinates = "bonds", Field("q", "a", "bond coordinate")
    parameters: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, lattice):
        super().__init__(lattice, 1, lattice.bonds(1))

    def matrix(self, ghosted_q, halo):
        q = displaced(ghosted_q, halo, (0, 0))[..., 0]
        one = torch.ones_like(q)
        return torch.cat([0.3 * one, -(1 + q), -one], dim=-1)

    def energy(self, ghosted_q, halo):
        return torch.zeros(displaced(ghosted_q, halo, (0, 0)).shape[:-2])


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("periodic", [(True, True), (False, False)])
def test_hamiltonian_with_coordinates_on_bonds(periodic, ranks):
    """Entries that vary from bond to bond, and entries of rho off the diagonal."""
    extent, lattice = (4, 6), square.build((4, 6), periodic)
    q = random_q(extent, 0.3)
    matrix = 0.3 * np.eye(24) + dense(torch.zeros_like(q), periodic)
    right = np.arange(24).reshape(extent)
    for y in range(4):
        for x in range(6 if periodic[1] else 5):
            i, j = right[y, x], right[y, (x + 1) % 6]
            matrix[i, j] -= float(q[y, x])
            matrix[j, i] -= float(q[y, x])
    energies, states = np.linalg.eigh(matrix)
    rho = (states * fermi(energies - 0.2)) @ states.T
    expected = np.array([[2 * rho[right[y, x], right[y, (x + 1) % 6]] for x in range(6)] for y in range(4)])
    if not periodic[1]:
        expected[:, 5] = 0

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        forces = kpm.build(kpm.Options(), Bonds(lattice), domain, Ensemble("grand-canonical", KT, chemical_potential=0.2))
        return tile, forces(State.at_rest(q[tile].contiguous()))

    for tile, result in run_in_process(ranks, body):
        np.testing.assert_allclose(result.force[..., 0, 0], expected[tile], atol=1e-8)


# --- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(10, 10), (7, 12), (1, 5), (13, 2), (1, 1)])
def test_equal_colours_are_apart_on_any_extent(extent):
    everywhere = [(0, cells) for cells in extent]
    candidates = Colouring.candidates(extent)
    assert candidates[-1].colours == math.prod(extent)
    for one in candidates:
        colour = one.of(everywhere, torch.device("cpu"))
        assert colour.min() >= 0
        assert colour.max() < one.colours
        for axis, (cells, repeats) in enumerate(zip(extent, one.repeats, strict=True)):
            for step in range(1, cells // repeats):
                assert (colour != colour.roll(step, axis)).all()
        tile = [(cells // 2, cells) for cells in extent]
        assert torch.equal(one.of(tile, torch.device("cpu")), colour[tuple(slice(*span) for span in tile)])


def test_signs_are_fair_and_functions_of_seed_site_and_vector():
    sites = torch.arange(4096)
    first = site_signs(5, sites)
    assert set(first.tolist()) == {-1.0, 1.0}
    assert abs(float(first.mean())) < 0.06
    assert torch.equal(site_signs(5, sites[100:200]), first[100:200])
    others = [site_signs(6, sites), site_signs(5, sites, 1), site_signs(5, sites, 64)]
    assert all(abs(float((first * other).mean())) < 0.06 for other in others)


def test_each_site_starts_once_and_blocks_partition_the_vectors():
    hamiltonian, domain = system((6, 8))
    stencil = Stencil(hamiltonian, domain, random_q((6, 8)))
    sites, colouring = Sites.of(domain, stencil.owned_cells()), Colouring((6, 8), (2, 2))
    colours = colouring.of(domain.owned, domain.device).reshape(-1)
    readings = _probing.coloured(colours, colouring.colours, sites, site_signs(0, sites.number), [(0, 0, 0)], 3)
    assert sorted(readings.source.tolist()) == sorted(sites.ghosted.reshape(-1).tolist())
    parts = [readings.part(first, count) for first, count in ((0, 5), (5, 5), (10, 2))]
    assert readings.vectors == 12
    assert torch.equal(torch.cat([part.source for part in parts]), readings.source)
    assert all(part.vector.max() < part.vectors for part in parts)


def test_the_scale_of_errors_is_not_rounded_to_single_precision():
    """It was 3.299999952316284 at g = 3.3: a Python float became a tensor of the default type."""
    hamiltonian, domain = system((8, 8), g=3.3)
    assert kpm.build(kpm.Options(), hamiltonian, domain, CANONICAL)._problem(random_q((8, 8))).scale == 3.3
