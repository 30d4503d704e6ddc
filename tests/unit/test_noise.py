"""Philox against NumPy bit by bit, the normals against their moments, and purity in step and site."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import hpc_holstein.domain.noise as noise_module
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream, philox, standard_normal
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import square

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ALL_ONES = (1 << 64) - 1


def signed(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(words.astype(np.uint64).view(np.int64))


def numpy_block(counter: list[int], key: list[int]) -> list[int]:
    """NumPy increments its 256-bit counter before the first block."""
    whole = sum(word << (64 * place) for place, word in enumerate(counter))
    stream = np.random.Philox(counter=(whole - 1) % (1 << 256), key=key[0] + (key[1] << 64))
    return [int(word) for word in stream.random_raw(4)]


@pytest.mark.parametrize("device", DEVICES)
def test_philox_has_the_bits_of_numpy(device: str) -> None:
    rng = np.random.default_rng(7)
    counters = rng.integers(0, ALL_ONES, (64, 4), dtype=np.uint64, endpoint=True)
    counters[:2] = [0, 0, 0, 0], [ALL_ONES] * 4
    for key in ([0, 0], [ALL_ONES, ALL_ONES], [20260104, 3], [int(k) for k in rng.integers(0, ALL_ONES, 2, dtype=np.uint64)]):
        words = philox([signed(column).to(device) for column in counters.T.copy()], (key[0], key[1]))
        got = torch.stack([word.cpu() for word in words], dim=1).numpy().view(np.uint64)
        assert got.tolist() == [numpy_block([int(c) for c in counter], key) for counter in counters]


def test_philox_known_answers() -> None:
    """From the authors' table (Random123, kat_vectors): counter and key all zeros, all ones."""
    zeros = [int(word) & ALL_ONES for word in philox((0, 0, 0, 0), (0, 0))]
    assert zeros == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    ones = [int(word) & ALL_ONES for word in philox((-1, -1, -1, -1), (ALL_ONES, ALL_ONES))]
    assert ones == [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]


@pytest.mark.parametrize("device", DEVICES)
def test_normals_follow_from_the_words_of_numpy(device: str) -> None:
    """Site 5, component 1 of 2, steps 16 to 23: one block, Box-Muller by hand."""
    words = numpy_block([2 * 5 + 1, 2, 0, 0], [11, Stream.INITIAL_Q])
    cell = torch.tensor([5], device=device)
    for step in range(16, 24):
        word = words[(step - 16) // 2]
        radius = math.sqrt(-2 * math.log(((word & 0xFFFFFFFF) + 0.5) / 2**32))
        angle = 2 * math.pi * ((word >> 32) + 0.5) / 2**32
        expected = radius * (math.sin(angle) if step % 2 else math.cos(angle))
        got = standard_normal(11, Stream.INITIAL_Q, step, cell, components=2)
        assert got.shape == (1, 1, 2)
        assert got[0, 0, 1].item() == pytest.approx(expected, rel=1e-13)


def test_moments_and_independence() -> None:
    """Mean, variance, skewness, kurtosis and correlations of 8 x 40,000 normals, within five standard errors."""
    cells = torch.arange(40_000)
    fields = torch.stack([standard_normal(3, Stream.DYNAMICS, step, cells).flatten() for step in range(8)])
    n = fields.numel()
    assert abs(fields.mean()) < 5 / math.sqrt(n)
    assert abs(fields.square().mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((fields**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((fields**4).mean() - 3) < 5 * math.sqrt(96 / n)
    others = [
        standard_normal(4, Stream.DYNAMICS, 0, cells).flatten(),
        standard_normal(3, Stream.INITIAL_Q, 0, cells).flatten(),
        standard_normal(3, Stream.DYNAMICS, 8, cells).flatten(),
        fields[0].roll(1),
    ]
    covariance = torch.cov(torch.stack([*fields, *others]))
    off_diagonal = covariance - torch.diag(covariance.diag())
    assert off_diagonal.abs().max() < 5 / math.sqrt(40_000)
    tail = (fields.abs() > 3).double().mean()
    assert tail == pytest.approx(math.erfc(3 / math.sqrt(2)), rel=0.2)


def test_noise_field_is_a_function_of_the_step() -> None:
    """Any order of steps, and a field made anew at any step as after a restart."""
    domain = CartesianDomain(square.build((5, 7)), SerialTransport())
    noise = NoiseField(9, Stream.DYNAMICS, domain)
    in_order = [noise(step).clone() for step in range(20)]
    for step in (19, 3, 8, 7, 0, 16):
        assert torch.equal(noise(step), in_order[step])
        assert torch.equal(NoiseField(9, Stream.DYNAMICS, domain)(step), in_order[step])
    assert len({float(field[0, 0]) for field in in_order}) == 20
    assert noise(0).shape == (5, 7, 1, 1)


def test_bits_do_not_depend_on_the_company_of_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = torch.arange(700)
    whole = standard_normal(1, 0, 3, cells)
    for start, stop in ((0, 1), (13, 20), (350, 699)):
        assert torch.equal(standard_normal(1, 0, 3, cells[start:stop]), whole[start:stop])
    shuffled = torch.randperm(700)
    assert torch.equal(standard_normal(1, 0, 3, shuffled), whole[shuffled])
    monkeypatch.setitem(noise_module._CHUNK, "cpu", 37)
    assert torch.equal(standard_normal(1, 0, 3, cells), whole)


def test_single_precision_is_the_rounded_double() -> None:
    cells = torch.arange(100)
    single = standard_normal(1, 0, 3, cells, dtype=torch.float32)
    assert torch.equal(single, standard_normal(1, 0, 3, cells).float())


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match="unsigned 64-bit"):
        standard_normal(seed, 0, 0, torch.arange(2))
    with pytest.raises(ConfigError, match="unsigned 64-bit"):
        NoiseField(seed, 0, CartesianDomain(square.build((2, 2)), SerialTransport()))


def test_the_compiled_words_are_those_of_the_tensor_operations() -> None:
    """What a CPU computes against what other devices do: the same bits, at the ends of 64 bits as well."""
    sites = torch.cat([torch.arange(300), torch.tensor([2**62, 2**63 - 1])])
    for seed, stream, block in ((0, 0, 0), (ALL_ONES, 2, 5), (2**63 + 5, 1, 2**40)):
        words = torch.stack(philox((sites, block, 0, 0), (seed, stream)))
        halves = noise_module._uniforms(sites, block, (seed, stream))
        for half, shift in zip(halves, (0, 32), strict=True):
            assert torch.equal(half, noise_module._uniform((words >> shift) & 0xFFFFFFFF))
