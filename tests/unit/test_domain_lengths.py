"""Observables of a decomposed lattice: those of the whole one, from no gathered field, with the same bits on any ranks."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from domain_checks import cube
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.reduction import grouped_sum
from hpc_holstein.domain.slabs import SlabTransform
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.interfaces import Lattice
from hpc_holstein.lattice import square
from hpc_holstein.output.domain_lengths import DomainLengths
from hpc_holstein.output.order import Order, wall_density

GRIDS = [(1, 1), (2, 1), (1, 3), (2, 2), (4, 1), (3, 2)]


def noise(extent: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(extent, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tiled(field: Tensor, lattice: Lattice, transport: Transport, grid: tuple[int, ...]) -> tuple[Tensor, CartesianDomain]:
    domain = CartesianDomain(lattice, transport, grid)
    return field[tuple(slice(*span) for span in domain.owned)].contiguous(), domain


def smooth(extent: tuple[int, int]) -> Tensor:
    """Domains of some four cells: noise of waves of some eight cells, at two signs."""
    q = torch.hypot(*torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in extent], indexing="ij"))
    return torch.fft.ifft2(torch.fft.fft2(noise(extent)) * torch.exp(-400 * (q - 1 / 8) ** 2)).real.sign()


def by_numpy(phi: Tensor) -> dict[str, float]:
    """The definitions, on a square lattice of any extent."""
    extent = phi.shape
    power = np.abs(np.fft.fftn(phi.numpy())) ** 2
    y, x = np.meshgrid(*(np.fft.fftfreq(cells) for cells in extent), indexing="ij")
    correlation = np.fft.ifftn(power).real
    radius = np.hypot(y * extent[0], x * extent[1])
    rings = [radius.round() == r for r in range(min(extent) // 2 + 1)]
    radii, averages = (np.array([values[ring].mean() for ring in rings if ring.any()]) for values in (radius, correlation))

    def crossing(level: float, shift: float = 0.0) -> float:
        height = averages - level * averages[0] + shift * noise_of_rings
        last = int(np.argmax(height <= 0))
        if not height[last] <= 0:
            return math.inf
        return float(np.interp(0.0, height[[last, last - 1]], radii[[last, last - 1]]))

    pairs = np.array([phi.numel() * ring.sum() / 2 for ring in rings if ring.any()])
    noise_of_rings = averages[0] / np.sqrt(pairs) * (radii > 0)
    zero = crossing(0.0) if crossing(0.0, 4) - crossing(0.0, -4) <= crossing(0.0) / 3 else math.nan
    moment = (power * 2 * math.pi * np.hypot(y, x)).sum()
    return {"first_zero": zero, "half_height": crossing(0.5), "inverse_moment": float(power.sum() / moment)}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("extent", [(22, 26), (21, 25)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_lengths_are_those_of_the_whole_field_and_have_its_bits(
    grid: tuple[int, int], extent: tuple[int, int], is_complex: bool
) -> None:
    lattice = square.build(extent)
    field = smooth(extent) + 0.1 * noise(extent)
    phi = torch.complex(field, 0.3 * noise(extent, 1)) if is_complex else field

    def body(transport: Transport) -> dict[str, float]:
        tile, domain = tiled(phi, lattice, transport, grid)
        found = DomainLengths(domain, transport, real=not is_complex)(tile[..., None, None])
        return {name: float(value) for name, value in found.items()}

    alone = run_in_process(
        1, lambda transport: DomainLengths(CartesianDomain(lattice, transport), transport, not is_complex)(phi[..., None, None])
    )
    expected = by_numpy(phi)
    assert all(0.5 < length < 10 for length in expected.values())
    for found in run_in_process(math.prod(grid), body):
        for name, length in expected.items():
            assert found[name] == pytest.approx(length, rel=1e-12), name
            assert found[name] == float(alone[0][name]), name


def test_more_ranks_than_rows() -> None:
    lattice = square.build((2, 16))
    phi = noise((2, 16))

    def body(transport: Transport) -> dict[str, float]:
        tile, domain = tiled(phi, lattice, transport, (1, 4))
        return {
            name: float(value) for name, value in DomainLengths(domain, transport, real=True)(tile[..., None, None]).items()
        }

    expected = by_numpy(phi)
    for found in run_in_process(4, body):
        assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_perfect_order_has_no_length_and_no_order_none_either() -> None:
    lattice = square.build((8, 12))
    measured = DomainLengths(CartesianDomain(lattice, SerialTransport()), SerialTransport(), real=True)

    def lengths(phi: Tensor) -> dict[str, Tensor]:
        return measured(phi[..., None, None])

    assert all(math.isinf(float(value)) for value in lengths(torch.ones((8, 12), dtype=torch.float64)).values())
    assert all(math.isnan(float(value)) for value in lengths(torch.zeros((8, 12), dtype=torch.float64)).values())
    last_digits = 6e-8 * noise((8, 12))
    assert all(math.isinf(float(value)) for value in lengths(1 + last_digits).values())
    assert all(math.isnan(float(value)) for value in lengths(last_digits).values())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("periodic", [(True, True), (True, False)])
def test_walls_are_those_of_the_whole_field(grid: tuple[int, int], periodic: tuple[bool, bool]) -> None:
    lattice = square.build((12, 18), periodic)
    n = noise((12, 18))
    expected, bonds = 0, 0
    for y, x in product(range(12), range(18)):
        for dy, dx in ((0, 1), (1, 0)):
            if x + dx < 18 or periodic[1]:
                bonds += 1
                expected += bool(n[y, x] * n[(y + dy) % 12, (x + dx) % 18] > 0)  # which alternates in one domain

    def body(transport: Transport) -> float:
        tile, domain = tiled(n, lattice, transport, grid)
        return float(wall_density(tile[..., None, None], Order((Fraction(1, 2),) * 2), domain))

    assert set(run_in_process(math.prod(grid), body)) == {expected / bonds}


@pytest.mark.parametrize("extent", [(6, 5), (7, 8), (6, 5, 4), (5, 4, 7)])
@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_slab_transforms_are_those_of_numpy(extent: tuple[int, ...], real: bool, ranks: int) -> None:
    lattice = square.build(extent) if len(extent) == 2 else dataclasses.replace(cube(extent, (True,) * 3))
    field = noise(extent) if real else torch.complex(noise(extent), noise(extent, 1))
    expected = (np.fft.rfftn if real else np.fft.fftn)(field.numpy())

    def body(transport: Transport) -> float:
        domain = CartesianDomain(lattice, transport)
        tile = field[tuple(slice(*span) for span in domain.owned)].contiguous()
        slabs = SlabTransform(domain, transport, real)
        spectrum = slabs.forward(tile)
        np.testing.assert_allclose(spectrum.numpy(), expected[..., slice(*slabs.columns)], atol=1e-12)
        np.testing.assert_allclose(slabs.inverse(spectrum).numpy(), field[slice(*slabs.rows)].numpy(), atol=1e-13)
        return float((spectrum.abs().square() * slabs.weights).sum())

    total = sum(run_in_process(ranks, body))
    assert total == pytest.approx(float(field.abs().square().sum()) * math.prod(extent), rel=1e-12)  # Parseval


@pytest.mark.parametrize("odd", [None, 1e9, math.nan])
def test_grouped_sums(odd: float | None) -> None:
    values, group = noise((5, 40)), torch.arange(200, dtype=torch.int32).reshape(5, 40) % 7
    if odd is not None:
        values[2, 3] = odd
    lattice = square.build((5, 40))

    def body(transport: Transport, grid: tuple[int, int]) -> Tensor:
        (mine, domain), (groups, _) = tiled(values, lattice, transport, grid), tiled(group, lattice, transport, grid)
        return grouped_sum(mine.flatten(), groups.flatten(), 7, domain)

    alone = body(SerialTransport(), (1, 1))
    expected = torch.stack([values[group == number].sum() for number in range(7)])
    torch.testing.assert_close(alone, expected, rtol=1e-13, atol=1e-13, equal_nan=True)
    for total in run_in_process(4, lambda transport: body(transport, (1, 4))):
        same = total == alone
        same[int(group[2, 3])] |= odd is not None
        assert bool(same.all())
