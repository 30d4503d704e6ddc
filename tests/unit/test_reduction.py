"""Sums over all sites: exact, and the same bits however the sites are dealt to ranks."""

import math
from fractions import Fraction

import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.reduction import _parts, _parts_of_groups, _split, global_sum
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.lattice import square

EXTENT = (37, 24)


def values(std, dtype=torch.float64):
    return (std * torch.randn(2, *EXTENT, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("std", [1e-12, 0.5, 70.0, 5000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sum_is_that_of_exact_fractions(std, dtype):
    x = values(std, dtype)
    total = global_sum(x, CartesianDomain(square.build(EXTENT), SerialTransport()))
    for row, found in zip(x, total, strict=True):
        exact = sum(Fraction(float(one)) for one in row.flatten())
        assert abs(float(exact - Fraction(float(found)))) <= x[0].numel() * 2.0**-49 + abs(float(exact)) * 2e-16


@pytest.mark.parametrize("grid", [(2, 1), (1, 3), (4, 1), (2, 2)])
def test_same_bits_on_every_rank_grid(grid):
    x = values(3.0)
    lattice = square.build(EXTENT)
    alone = global_sum(x, CartesianDomain(lattice, SerialTransport()))

    def body(transport):
        domain = CartesianDomain(lattice, transport, grid=grid)
        (top, bottom), (left, right) = domain.owned
        return global_sum(x[:, top:bottom, left:right], domain)

    for total in run_in_process(math.prod(grid), body):
        assert torch.equal(total, alone)


@pytest.mark.parametrize("odd", [math.nan, math.inf, 1e9])
def test_what_is_no_ordinary_number_is_summed_in_float64(odd):
    x = values(1.0)
    x[1, 3, 4] = odd
    total = global_sum(x, CartesianDomain(square.build(EXTENT), SerialTransport()))
    assert torch.isfinite(total[0])
    assert torch.allclose(total[1], x[1].sum(), equal_nan=True)


def test_the_sums_of_a_gpu_are_those_of_the_compiled_code():
    x = values(40.0).flatten(1)
    x[0, :3] = torch.tensor([math.nan, -math.inf, 1e9])
    group = torch.arange(x.shape[1]) % 7
    high, low, refused = _split(x)
    there = refused == 0
    by_torch = torch.stack([(high * there).sum(dim=1), (low * there).sum(dim=1), refused.sum(dim=1)])
    assert torch.equal(_parts(x), by_torch)
    by_groups = torch.zeros(3, 7, dtype=torch.int64)
    for row, part in zip(by_groups, _split(x[1]), strict=True):
        row.index_add_(0, group, part)
    assert torch.equal(_parts_of_groups(x[1], group, 7), by_groups)
