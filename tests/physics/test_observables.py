"""Observables on fields whose order, spectrum, walls and energies are known in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein import dynamics
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import exact
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.output import observables
from hpc_holstein.output import order as orders
from hpc_holstein.output.domain_lengths import DomainLengths, first_crossing
from hpc_holstein.output.order import Order, OrderScalars, default_orders, lattice_order

EXTENT = (12, 16)
LATTICE = square.build(EXTENT)


def signs(extent=EXTENT) -> Tensor:
    y, x = np.indices(extent)
    return torch.from_numpy((-1.0) ** (y + x))


def checkerboard(extent=EXTENT) -> Tensor:
    return 0.5 + 0.5 * signs(extent)


def noise(extent=EXTENT, seed=0) -> Tensor:
    return torch.randn(extent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alone(lattice) -> CartesianDomain:
    return CartesianDomain(lattice, SerialTransport())


def order_of(lattice) -> Order:
    found = lattice_order(lattice)
    assert found is not None
    return Order(*found)


def local_order(n, lattice):
    """Of one number on each site of a cell of one site."""
    return orders.local_order(torch.as_tensor(n)[..., None, None], order_of(lattice), alone(lattice))[..., 0, 0]


def order_parameter(phi, lattice):
    return orders.order_parameter(phi[..., None, None], alone(lattice))


def wall_density(density, lattice):
    domain, order = alone(lattice), order_of(lattice)
    return orders.wall_density(orders.difference(density[..., None, None], order, domain), order, domain)


def scalars(n, lattice, q=None) -> dict[str, float]:
    measured = OrderScalars(alone(lattice), SerialTransport(), default_orders(holstein.build(holstein.Options(), lattice)))
    return measured(n[..., None], (0 * n if q is None else q)[..., None, None])


class Lengths:
    """Those of one number on each site of a cell of one site."""

    def __init__(self, lattice) -> None:
        self._lengths = DomainLengths(alone(lattice), SerialTransport(), real=True)
        self.radii = self._lengths.radii

    def __call__(self, phi):
        return self._lengths(phi[..., None, None])

    def correlation(self, phi):
        return self._lengths.correlation(phi[..., None, None])


def lengths_of(lattice) -> Lengths:
    return Lengths(lattice)


def structure_factor(n, lattice):
    return observables.structure_factor(torch.as_tensor(n)[..., None], lattice)


def wall_pair(first=4, second=11) -> Tensor:
    """Sign of the order in each column: minus in [first, second)."""
    columns = torch.ones(EXTENT[1], dtype=torch.float64)
    columns[first:second] = -1
    return columns


# --- local order ------------------------------------------------------------------------------------------------------


def test_checkerboard_is_one_domain_of_order_one():
    phi = local_order(checkerboard(), LATTICE)
    torch.testing.assert_close(phi, torch.ones(EXTENT, dtype=torch.float64), rtol=0, atol=1e-15)
    assert float(order_parameter(phi, LATTICE)) == 1
    assert float(wall_density(checkerboard(), LATTICE)) == 0
    for length in lengths_of(LATTICE)(phi).values():
        assert math.isinf(float(length))


def test_local_order_is_the_formula_site_by_site():
    n = noise().numpy()
    phi = local_order(n, LATTICE)
    for y in range(EXTENT[0]):
        for x in range(EXTENT[1]):
            around = [n[(y + 1) % 12, x], n[y - 1, x], n[y, (x + 1) % 16], n[y, x - 1]]
            assert float(phi[y, x]) == pytest.approx((n[y, x] - np.mean(around)) * (-1) ** (y + x), abs=1e-14)


@pytest.mark.parametrize("extent", [EXTENT, (2, 2), (2, 8), (40, 40)])
@pytest.mark.parametrize("filling", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "round_off"), [(torch.float64, 1e-15), (torch.float64, 6e-8), (torch.float32, 6e-8)])
def test_uniform_density_has_no_order_no_walls_and_no_domain_length(extent, filling, dtype, round_off):
    """Whatever the last digits are, also those of a trajectory in single precision."""
    lattice = square.build(extent)
    n = (filling + round_off * noise(extent)).to(dtype)
    assert float(local_order(n, lattice).abs().max()) < 1e-6
    found = scalars(n, lattice)
    assert found["domain_wall_density"] == 0
    assert found["order_parameter"] < 1e-6
    lengths = [value for name, value in found.items() if name.startswith("domain_length")]
    assert len(lengths) == 3
    assert all(map(math.isnan, lengths))


@pytest.mark.parametrize("amplitude", [1.0, 1e-2, 1e-4])
def test_faint_order_is_order(amplitude):
    n = 0.5 + 0.5 * amplitude * signs() * wall_pair()
    found = scalars(n, LATTICE)
    assert found["domain_wall_density"] == 1 / EXTENT[1]
    whole = scalars(0.5 + 0.5 * signs() * wall_pair(), LATTICE)
    for name in ("domain_length_first_zero", "domain_length_half_height", "domain_length_inverse_moment"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6)


@pytest.mark.parametrize("extent", [(9, 12), (9, 9), (3, 3)])
def test_walls_that_an_odd_extent_forces(extent):
    """The checkerboard that starts at one end of an odd axis meets itself with opposite sign at the other."""
    n = checkerboard(extent)
    frustrated = [cells % 2 for cells in extent]
    lines = frustrated[0] * extent[1] + frustrated[1] * extent[0]  # bonds between two filled or two empty sites
    beside = {0: lines, 1: lines}[frustrated[0] or frustrated[1]]
    assert float(wall_density(n, square.build(extent))) == beside / (2 * extent[0] * extent[1])


def test_open_edges_average_over_the_neighbours_that_exist():
    lattice = square.build((3, 5), (False, False))
    torch.testing.assert_close(
        local_order(checkerboard((3, 5)), lattice), torch.ones(3, 5, dtype=torch.float64), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(
    ("extent", "periodic", "remedy"),
    [
        ((11, 16), (True, True), "use 10x16 or 12x16"),
        ((12, 15), (False, True), "use 12x14 or 12x16"),
        ((7, 9), (True, True), "use 6x8 or 8x10"),
        ((7, 9), (True, False), "use 6x9 or 8x9"),
        ((1, 4), (True, True), "use 2x4"),
    ],
)
def test_an_order_that_an_odd_extent_does_not_hold_is_left_out_with_the_nearest_ones(extent, periodic, remedy):
    lattice = square.build(extent, periodic)
    told = order_of(lattice).misfit(lattice)
    assert told.startswith("the order of density at (1/2, 1/2) reciprocal lattice vectors is left out but for its walls: its ")
    assert told.endswith(f"does not fit the lattice extent {extent[0]}x{extent[1]}; {remedy}")
    found = scalars(noise(extent), lattice)
    assert set(found) == {"domain_wall_density"}


def test_straight_walls():
    """Two straight walls cut Y horizontal bonds each; the four columns beside them have phi = 3/4 instead of 1."""
    n = 0.5 + 0.5 * signs() * wall_pair()
    phi = local_order(n, LATTICE)
    assert float(wall_density(n, LATTICE)) == 2 * EXTENT[0] / (2 * EXTENT[0] * EXTENT[1])
    expected = wall_pair()
    expected[[3, 4, 10, 11]] *= 0.75
    torch.testing.assert_close(phi, expected.expand(EXTENT), rtol=0, atol=1e-15)
    assert float(order_parameter(phi, LATTICE)) == pytest.approx((9 - 0.5 - (7 - 0.5)) / 16)


def test_walls_of_random_signs_cut_half_of_the_bonds():
    lattice = square.build((200, 200))
    walls = orders.wall_density(noise((3, 200, 200)).sign()[..., None, None], order_of(lattice), alone(lattice))
    assert walls.shape == (3,)
    np.testing.assert_allclose(walls, 0.5, atol=5 * 0.5 / math.sqrt(2 * 40_000))


def test_round_off_where_the_density_is_uniform_makes_no_walls():
    """Filled columns beside ordered ones: phi is 0 on the filled bonds, up to the order in which the neighbours add."""
    n = checkerboard()
    n[:, :6] = 1.0
    walls = wall_density(n, LATTICE)
    assert float(walls) == 0
    for seed in range(3):
        assert torch.equal(wall_density(n + 1e-15 * noise(seed=seed), LATTICE), walls)
        assert torch.equal(wall_density((n + 1e-15 * noise(seed=seed)).float(), LATTICE), walls)


# --- spectra and correlations -----------------------------------------------------------------------------------------


def test_structure_factor_of_the_checkerboard_is_one_peak_at_K():
    s = structure_factor(checkerboard(), LATTICE)
    assert float(s[6, 8]) == pytest.approx(LATTICE.sites / 4)
    assert float(s.sum() - s[6, 8]) == pytest.approx(0, abs=1e-12)


def test_structure_factor_sum_rule():
    n = noise((2, *EXTENT)) + 3.0
    s = structure_factor(n, LATTICE)
    torch.testing.assert_close(s.mean(dim=(-2, -1)), n.var(dim=(-2, -1), correction=0), rtol=1e-13, atol=0)
    assert float(s[..., 0, 0].abs().max()) < 1e-20


def test_correlation_is_the_plain_average_in_rings():
    """By hand: displacements whose length rounds to a radius, to half of the shortest axis; that of the mean is the radius."""
    phi, lengths = noise().numpy(), lengths_of(LATTICE)
    rings: dict[int, list[tuple[float, float]]] = {}
    for dy in range(-6, 6):
        for dx in range(-8, 8):
            product = (phi * np.roll(phi, (-dy, -dx), (0, 1))).mean()
            rings.setdefault(round(math.hypot(dy, dx)), []).append((math.hypot(dy, dx), product))
    expected = np.array([np.mean(rings[radius], axis=0) for radius in range(7)])
    np.testing.assert_allclose(lengths.radii, expected[:, 0], atol=1e-14)
    np.testing.assert_allclose(lengths.correlation(torch.from_numpy(phi)), expected[:, 1], atol=1e-14)
    assert float(lengths.radii[1]) == pytest.approx((1 + math.sqrt(2)) / 2)  # the nearest four and the diagonal four


def test_length_of_a_known_modulation():
    """phi = cos(2 pi x / 40): C = cos(2 pi dx / 40) / 2, one wave number, so 1 / moment = 40 / 2 pi."""
    lattice = square.build((40, 40))
    x = torch.arange(40, dtype=torch.float64)
    phi = torch.cos(2 * math.pi * x / 40).expand(40, 40)
    lengths = lengths_of(lattice)(phi)
    assert float(lengths["inverse_moment"]) == pytest.approx(40 / (2 * math.pi), rel=1e-12)
    bessel_zero, bessel_half = 2.404825557695773, 1.521147  # the mean of cos(k.r) over directions is J0(k r)
    assert float(lengths["first_zero"]) == pytest.approx(bessel_zero * 40 / (2 * math.pi), rel=0.01)
    assert float(lengths["half_height"]) == pytest.approx(bessel_half * 40 / (2 * math.pi), rel=0.01)


def test_lengths_are_those_of_the_lattice_and_not_of_its_extent():
    """Rows two lattice constants apart double the length of a modulation across them, whichever lattice came first."""
    y = torch.arange(EXTENT[0], dtype=torch.float64)
    phi = torch.cos(2 * math.pi * y / EXTENT[0])[:, None].expand(EXTENT)
    apart = dataclasses.replace(LATTICE, vectors=((2.0, 0.0), (0.0, 1.0)))
    for lattice, spacing in ((LATTICE, 1), (apart, 2), (LATTICE, 1)):
        lengths = lengths_of(lattice)
        assert float(lengths(phi)["inverse_moment"]) == pytest.approx(spacing * EXTENT[0] / (2 * math.pi), rel=1e-12)
        assert float(lengths.radii[1]) == pytest.approx(1.0 if spacing == 2 else (1 + math.sqrt(2)) / 2)


def test_domain_length_takes_the_order_at_K_out_of_the_density():
    """A density modulated around K has the length of its envelope."""
    lattice = square.build((32, 32))
    x = torch.arange(32, dtype=torch.float64)
    n = 0.5 + 0.4 * signs((32, 32)) * torch.stack([torch.cos(2 * math.pi * m * x / 32).expand(32, 32) for m in (1, 2)])
    long, short = (lengths_of(lattice)(phi) for phi in local_order(n, lattice))
    assert float(long["inverse_moment"]) == pytest.approx(32 / (2 * math.pi), rel=1e-12)
    assert float(short["inverse_moment"]) == pytest.approx(16 / (2 * math.pi), rel=1e-12)
    assert long["first_zero"] > 1.8 * short["first_zero"]


def test_first_crossing_interpolates_linearly():
    radii = torch.tensor([0.0, 1.0, 2.0, 3.0])
    averages = torch.tensor([[1.0, 0.75, 0.25, -0.25], [1.0, 0.9, 0.8, 0.7]])
    np.testing.assert_allclose(first_crossing(radii, averages, 0.0), [2.5, np.inf])
    np.testing.assert_allclose(first_crossing(radii, averages, 0.5), [1.5, np.inf])


@pytest.mark.parametrize("extent", [(16, 16), (40, 40), (16, 64)])
@pytest.mark.parametrize("of_density", [False, True])
def test_a_first_zero_within_the_noise_of_uncorrelated_fields_is_no_length(extent, of_density):
    """In 99 % of draws, of phi itself and of densities whose phi holds those of the neighbours."""
    lattice = square.build(extent)
    lengths, found = lengths_of(lattice), []
    for seed in range(200):
        field = noise(extent, seed)
        found.append(lengths(local_order(field, lattice) if of_density else field))
    assert sum(not math.isnan(float(one["first_zero"])) for one in found) <= 2
    assert all(float(one["half_height"]) < 1 and float(one["inverse_moment"]) < 1 for one in found)


def coarsening(extent, seed, width):
    """Signs of noise that was smoothed over ``width``, without its longest waves, as of a quench at fixed mean order."""
    waves = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in extent], indexing="ij"))
    kept = torch.exp(-((waves * width) ** 2)) * (waves * width) ** 2
    return torch.fft.ifft2(torch.fft.fft2(noise(extent, seed)) * kept).real.sign()


@pytest.mark.parametrize("width", [4.0, 8.0])
@pytest.mark.parametrize("extent", [(40, 40), (64, 48)])
def test_domains_keep_the_first_zero_that_they_have_without_the_noise(extent, width):
    lengths = lengths_of(square.build(extent))
    for seed in range(20):
        phi = coarsening(extent, seed, width)
        crossing = first_crossing(lengths.radii, lengths.correlation(phi), 0.0)
        assert float(lengths(phi)["first_zero"]) == pytest.approx(float(crossing), rel=1e-12)
        assert 1 < float(crossing) < width


def test_a_crossing_is_no_length_where_a_flat_average_may_cross_elsewhere():
    radii, flat = torch.arange(5.0), torch.tensor([[1.0, 0.4, 0.01, -0.01, 0.01], [1.0, 0.5, 0.1, -0.3, -0.4]])
    noise_of_rings = torch.tensor([0.0, 0.02, 0.02, 0.02, 0.02])
    np.testing.assert_allclose(first_crossing(radii, flat, 0.0, noise_of_rings), [np.nan, 2.25])
    np.testing.assert_allclose(first_crossing(radii, torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6]), 0.0, noise_of_rings), np.inf)
    beyond = torch.tensor([1.0, 0.5, 0.01, 0.01, 0.01])  # comes as near as that, and does not cross within the box
    assert math.isnan(float(first_crossing(radii, beyond, 0.0, noise_of_rings)))


def test_spectra_refuse_open_axes():
    with pytest.raises(ConfigError, match="periodic"):
        structure_factor(noise(), square.build(EXTENT, (True, False)))


# --- scalars of a running simulation ----------------------------------------------------------------------------------


def test_energies_in_closed_form():
    """Staggered Q in the atomic limit t = 0 at kT = 0: Omega = -sum of g |Q| on the filled half."""
    lattice, q0, mass = square.build((4, 4)), 1.5, 5.0
    hamiltonian = holstein.build(holstein.Options(t=0.0), lattice)
    domain, ensemble = CartesianDomain(lattice, SerialTransport()), Ensemble("canonical", 0.0)
    state = State(q=q0 * signs((4, 4))[..., None, None], velocity=torch.full((4, 4, 1, 1), 0.3, dtype=torch.float64))
    before = observables.energies(state, mass, hamiltonian, domain, ensemble)
    assert set(before) == {"kinetic", "classical"}
    state = state.moved(forces=exact.build(exact.Options(), hamiltonian, domain, ensemble)(state))
    found = observables.energies(state, mass, hamiltonian, domain, ensemble)
    assert float(found["kinetic"]) == pytest.approx(0.5 * mass * 0.09)
    assert float(found["classical"]) == pytest.approx(0.5 * q0**2 - 2 * 0.18 * q0**2)
    assert float(found["electronic"]) == pytest.approx(-3.5 * q0 / 2)
    assert float(found["total"]) == pytest.approx(float(found["kinetic"] + found["classical"] + found["electronic"]))
    assert float(observables.electron_number(state.forces.density, domain)) == pytest.approx(8)
    assert float(observables.kinetic_temperature(state.velocity, mass, domain)) == pytest.approx(mass * 0.09)


@pytest.mark.parametrize(("kind", "kT"), [("canonical", 0.0), ("canonical", 0.3), ("grand-canonical", 0.3)])
def test_nve_dynamics_conserves_the_total_energy(kind, kT):
    """Force, grand potential, mu N, V and kinetic energy together: the drift falls with dt^2."""
    lattice, mass = square.build((4, 4)), 5.0
    hamiltonian, ensemble = holstein.build(holstein.Options(), lattice), Ensemble(kind, kT, chemical_potential=0.2)
    domain = CartesianDomain(lattice, SerialTransport())
    provider = exact.build(exact.Options(), hamiltonian, domain, ensemble)

    def drift(dt: float) -> float:
        integrator = dynamics.build("verlet-ou", mass, 0.0, dt, kT)
        state = integrator.init(State(noise((4, 4))[..., None, None], 0.5 * noise((4, 4), 1)[..., None, None]), provider)
        start, worst = observables.energies(state, mass, hamiltonian, domain, ensemble)["total"], 0.0
        for _ in range(round(2.0 / dt)):
            state = integrator.step(state, provider, lambda step: torch.zeros(()))
            now = observables.energies(state, mass, hamiltonian, domain, ensemble)["total"]
            worst = max(worst, float(abs(now - start)))
        return worst

    coarse, fine = drift(0.04), drift(0.02)
    assert coarse < 5e-3
    assert coarse / fine == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("ranks", [2, 4])
def test_scalars_of_a_decomposed_run_are_those_of_the_whole(ranks):
    """On tiles of odd width, so that the sign of the order differs between the first cells of two tiles."""
    lattice = square.build((10, 14))
    q, n = noise((2, 10, 14))[..., None, None], noise((2, 10, 14), 1).sigmoid()[..., None]
    hamiltonian, ensemble = holstein.build(holstein.Options(), lattice), Ensemble("canonical", 0.1)

    def body(transport):
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        state = State(q[:, *tile].contiguous(), 0.5 * q[:, *tile].contiguous())
        density = n[:, *tile].contiguous()
        return {
            "order": orders.order_parameter(orders.local_order(density[..., None], order_of(lattice), domain), domain),
            "electrons": observables.electron_number(density, domain),
            "temperature": observables.kinetic_temperature(state.velocity, 5.0, domain),
            **observables.energies(state, 5.0, hamiltonian, domain, ensemble),
        }

    whole = run_in_process(1, body)[0]
    phi = local_order(n[..., 0], lattice)
    torch.testing.assert_close(whole["order"], order_parameter(phi, lattice), rtol=0, atol=1e-14)
    for part in run_in_process(ranks, body):
        assert part.keys() == whole.keys()
        for name, value in part.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-13, atol=1e-14)
