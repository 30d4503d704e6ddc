"""Orders at wave vectors of every lattice, on states whose order, domains, correlations and spectra are known."""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.hamiltonian import holstein, peierls
from hpc_holstein.interfaces import Lattice
from hpc_holstein.lattice import chain, cubic, honeycomb, kagome, square, triangular
from hpc_holstein.output.domain_lengths import DomainLengths
from hpc_holstein.output.geometry import positions
from hpc_holstein.output.observables import structure_factor, wave_vectors
from hpc_holstein.output.order import Order, OrderScalars, default_orders, difference, lattice_order, local_order, wall_density

HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
EXTENTS = {"chain": (24,), "square": (8, 6), "triangular": (9, 12), "honeycomb": (8, 6), "kagome": (6, 5), "cubic": (6, 4, 4)}


def lattice_of(name: str, periodic: tuple[bool, ...] = ()) -> Lattice:
    build = importlib.import_module(f"hpc_holstein.lattice.{name}").build
    lattice: Lattice = build(EXTENTS[name], periodic or (True,) * len(EXTENTS[name]))
    return lattice


def alone(lattice: Lattice) -> CartesianDomain:
    return CartesianDomain(lattice, SerialTransport())


def sublattices(lattice: Lattice) -> Tensor:
    """1 on one of the two or three sublattices, by hand: ``[*cells, basis]``."""
    index = np.indices(lattice.extent)
    if lattice.name == "triangular":
        return torch.from_numpy(((index[0] - index[1]) % 3 == 0).astype(float))[..., None]
    if lattice.name == "honeycomb":
        return torch.tensor([1.0, 0.0], dtype=torch.float64).expand(*lattice.extent, 2).clone()
    return torch.from_numpy((index.sum(axis=0) % 2 == 0).astype(float))[..., None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def order_of(lattice: Lattice) -> Order:
    found = lattice_order(lattice)
    assert found is not None
    return Order(*found)


# --- which order ------------------------------------------------------------------------------------------------------


def test_the_order_of_each_lattice() -> None:
    assert lattice_order(chain.build((8,))) == ((HALF,), (1,))
    assert lattice_order(square.build((8, 8))) == ((HALF, HALF), (1,))
    assert lattice_order(cubic.build((4, 4, 4))) == ((HALF,) * 3, (1,))
    assert lattice_order(honeycomb.build((4, 4))) == ((0, 0), (1, -1))
    assert lattice_order(triangular.build((6, 6))) == ((THIRD, 2 * THIRD), (1,))
    assert lattice_order(kagome.build((4, 4))) is None


def test_the_orders_of_each_model() -> None:
    def fields(hamiltonian) -> list[str]:
        return [order.field for order in default_orders(hamiltonian)]

    assert fields(holstein.build(holstein.Options(), square.build((4, 4)))) == ["density", "q"]
    assert fields(holstein.build(holstein.Options(), kagome.build((4, 4)))) == []
    assert fields(peierls.build(peierls.Options(), square.build((4, 4)))) == ["q"]
    assert fields(peierls.build(peierls.Options(), triangular.build((3, 3)))) == []


@pytest.mark.parametrize("name", ["chain", "square", "triangular", "honeycomb", "cubic"])
def test_one_full_sublattice_is_order_one_in_one_domain(name: str) -> None:
    """So is an empty one among full ones; a uniform density has none."""
    lattice = lattice_of(name)
    domain, order, n = alone(lattice), order_of(lattice), sublattices(lattice)[..., None]
    phi = local_order(n, order, domain)
    assert phi.is_complex() == (name == "triangular")
    torch.testing.assert_close(phi, torch.ones_like(phi), rtol=0, atol=1e-14)
    assert float(wall_density(difference(1 - n, order, domain), order, domain)) == 0
    assert float(local_order(torch.full_like(n, 0.3), order, domain).abs().max()) < 1e-15
    measured = OrderScalars(domain, SerialTransport(), [order])(n[..., 0], n)
    assert measured["order_parameter"] == pytest.approx(1, abs=1e-14)
    assert all(math.isinf(length) for key, length in measured.items() if key.startswith("domain_length"))


def test_three_domains_of_the_triangular_lattice_have_three_phases() -> None:
    lattice = triangular.build((18, 18))
    order, domain = order_of(lattice), alone(lattice)
    index = np.indices(lattice.extent)
    which = index[1] // 6  # three stripes of six columns
    n = torch.from_numpy(((index[0] - index[1] + which) % 3 == 0).astype(float))[..., None, None]
    phi = local_order(n, order, domain)[..., 0, 0]
    inner = phi[:, [2, 3, 8, 9, 14, 15]]
    torch.testing.assert_close(inner.abs(), torch.ones_like(inner.abs()), rtol=0, atol=1e-13)
    phases = sorted((np.angle(inner[0].numpy()) / (2 * math.pi / 3)).round(6) % 3)
    assert phases == [0, 0, 1, 1, 2, 2]
    assert float(local_order(n, order, domain).mean().abs()) < 0.1
    assert 0 < float(wall_density(difference(n, order, domain), order, domain)) < 0.15


def test_signs_of_a_given_order_and_its_scale() -> None:
    """A stripe at (1/2, 0), where neighbours are not out of phase: the mean of the lattice is taken out."""
    lattice = square.build((8, 6))
    rows = torch.tensor([1.0, 0.0] * 4, dtype=torch.float64)[:, None].expand(8, 6)[..., None, None].clone()
    stripe = Order((HALF, Fraction(0)), name="stripe")
    found = OrderScalars(alone(lattice), SerialTransport(), [stripe])(rows[..., 0], rows)
    assert found["order_parameter_stripe"] == pytest.approx(1)
    assert found["domain_wall_density_stripe"] == 0
    quarter = Order((Fraction(1, 4), Fraction(0)))
    n = torch.tensor([1.0, 1.0, 0.0, 0.0] * 2, dtype=torch.float64)[:, None].expand(8, 6)[..., None, None]
    assert float(local_order(n, quarter, alone(lattice)).mean().abs()) == pytest.approx(1)  # the largest that there is
    assert "use 4x6 or 8x6" in quarter.misfit(square.build((7, 6)))


def test_displacements_are_one_order_of_two_components() -> None:
    """``u = d (-1)^(x + y)``, ``d`` along x in one half and along y in the other."""
    lattice = square.build((12, 16))
    sign = torch.from_numpy((-1.0) ** np.indices(lattice.extent).sum(axis=0))
    along_x = (torch.arange(16) < 8).double().expand(12, 16)
    u = 0.3 * torch.stack([sign * along_x, sign * (1 - along_x)], dim=-1).unsqueeze(-2)
    (order,) = default_orders(peierls.build(peierls.Options(), lattice))
    found = OrderScalars(alone(lattice), SerialTransport(), [order])(noise(12, 16, 1), u)
    assert found["order_parameter_q"] == pytest.approx(0.6 * math.hypot(0.5, 0.5))
    assert 2 < found["domain_length_half_height"] < 8
    assert "order_parameter" not in found


# --- correlations and spectra -----------------------------------------------------------------------------------------


def brute_force(phi: Tensor, lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance and mean ``Re phi_i^* . phi_j`` of all pairs whose shortest distance rounds to the same number."""
    place = positions(lattice).reshape(lattice.sites, -1)
    values = phi.numpy().reshape(lattice.sites, -1)
    sides = np.asarray(lattice.vectors) * np.asarray(lattice.extent)[:, None]
    steps = np.array(list(product(range(-4, 5), repeat=len(sides))))
    images = steps[(abs(steps) <= 4 * np.array(lattice.periodic)).all(axis=1)] @ sides
    box = np.array([step for step in product(range(-3, 4), repeat=len(sides)) if any(step)]) @ sides
    apart = place[None] - place[:, None]
    distance = np.full(apart.shape[:-1], np.inf)
    for image in images:
        distance = np.minimum(distance, np.linalg.norm(apart + image, axis=-1))
    half = 0.5 * np.linalg.norm(box, axis=-1).min()
    products = (values[:, None].conj() * values[None]).sum(axis=-1).real
    rings = [np.rint(distance) == r for r in range(int(half) + 1)]
    return tuple(np.array([field[ring].mean() for ring in rings if ring.any()]) for field in (distance, products))  # type: ignore[return-value]


EDGES = [(name, edges) for name in EXTENTS for edges in ("periodic", "open", "first open", "last open")]


@pytest.mark.parametrize(("name", "edges"), [*EDGES, ("strip", "first open")])
@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("is_complex", [False, True])
def test_correlations_are_averages_over_all_pairs(name: str, edges: str, components: int, is_complex: bool) -> None:
    """Of those that exist, along open axes; in a strip, whose rows move by more than its width, too."""
    number = len(EXTENTS.get(name, (0, 0)))
    opened = {"periodic": [], "open": [*range(number)], "first open": [0], "last open": [number - 1]}[edges]
    periodic = tuple(axis not in opened for axis in range(number))
    lattice = triangular.build((16, 3), periodic) if name == "strip" else lattice_of(name, periodic)
    shape = (*lattice.extent, len(lattice.basis), components)
    phi = torch.complex(noise(*shape), noise(*shape, seed=1)) if is_complex else noise(*shape)
    radii, expected = brute_force(phi, lattice)

    def body(transport: Transport) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        domain = CartesianDomain(lattice, transport)
        lengths = DomainLengths(domain, transport, not is_complex)
        tile = phi[tuple(slice(*span) for span in domain.owned)].contiguous()
        found = {key: float(value) for key, value in lengths(tile).items()}
        return lengths.radii.numpy(), lengths.correlation(tile).numpy(), found

    alone_found = run_in_process(1, body)[0]
    np.testing.assert_allclose(alone_found[0], radii, atol=1e-12)
    np.testing.assert_allclose(alone_found[1], expected, atol=1e-12)
    for found in run_in_process(3, body):
        assert np.array_equal(found[1], alone_found[1])
        assert repr(found[2]) == repr(alone_found[2])  # NaN is NaN


@pytest.mark.parametrize("name", EXTENTS)
def test_structure_factor_is_the_sum_over_sites(name: str) -> None:
    lattice = lattice_of(name)
    n = noise(*lattice.extent, len(lattice.basis))
    vectors, place = wave_vectors(lattice), positions(lattice).reshape(lattice.sites, -1)
    found = structure_factor(n, lattice)
    deviation = (n - n.mean()).numpy().ravel()
    expected = np.abs(np.exp(-1j * (vectors @ place.T)) @ deviation) ** 2 / lattice.sites
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_charge_order_of_the_honeycomb_lattice_is_a_peak_at_reciprocal_vectors_alone() -> None:
    """A against B: nothing in the first zone, all at the vectors of the reciprocal lattice, 3/4 of ``N/4`` each."""
    lattice = lattice_of("honeycomb")
    s, q = structure_factor(sublattices(lattice), lattice), np.linalg.norm(wave_vectors(lattice), axis=-1)
    peaks = s > 1e-9
    assert (q[peaks.numpy()] >= 4 * math.pi / 3 - 1e-9).all()
    assert float(s[np.isclose(q, 4 * math.pi / 3)].max()) == pytest.approx(0.75 * lattice.sites / 4)


@pytest.mark.parametrize("name", ["chain", "triangular", "honeycomb", "cubic"])
def test_the_length_of_a_modulation_in_cartesian_distance(name: str) -> None:
    """``phi = cos(k.r)`` along the first axis: one wave number, so ``1 / moment = 1 / k``."""
    lattice = lattice_of(name)
    k = 2 * math.pi * np.linalg.inv(np.asarray(lattice.vectors))[:, 0] / lattice.extent[0]
    phi = torch.from_numpy(np.cos(positions(lattice) @ k))[..., None]
    lengths = DomainLengths(alone(lattice), SerialTransport(), real=True)(phi)
    assert float(lengths["inverse_moment"]) == pytest.approx(1 / np.linalg.norm(k), rel=1e-6)


@pytest.mark.parametrize("name", EXTENTS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_scalars_are_those_of_the_whole_on_ranks(name: str, ranks: int) -> None:
    lattice = lattice_of(name)
    dimension, basis = len(lattice.extent), len(lattice.basis)
    n, q = noise(*lattice.extent, basis), noise(*lattice.extent, basis, dimension, seed=2)
    third = (THIRD, *(Fraction(0),) * (dimension - 1))
    orders = [Order(third, (1,) * basis, "q", "third")] if lattice.extent[0] % 3 == 0 else []
    orders += [order_of(lattice)] if lattice_order(lattice) else []

    def body(transport: Transport) -> dict[str, float]:
        domain = CartesianDomain(lattice, transport)
        tile = tuple(slice(*span) for span in domain.owned)
        return OrderScalars(domain, transport, orders)(n[tile].contiguous(), q[tile].contiguous())

    whole = run_in_process(1, body)[0]
    for found in run_in_process(ranks, body):
        assert repr(found) == repr(whole)  # NaN is NaN
