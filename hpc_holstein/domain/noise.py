"""Random numbers as pure functions of (seed, stream, step, global site): the same on any number of ranks, after any restart.

Philox4x64-10 (Salmon et al., SC11, doi:10.1145/2063384.2063405), compiled on a CPU and in 64-bit integer tensor operations
that wrap around on other devices, which gives the same bits.  One block holds eight 32-bit uniforms, hence eight normals:
those of eight steps of one site.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from hpc_holstein.compiled.philox import fill_uniforms
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Domain

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # golden ratio, sqrt(3) - 1
_LOW = 0xFFFFFFFF
_LANES = 8  # normals in one block
_CHUNK = {"cpu": 1 << 13, "cuda": 1 << 22}  # sites at a time, which bounds the memory of the temporaries


class Stream(IntEnum):
    """Independent noises of one run."""

    DYNAMICS = 0
    INITIAL_Q = 1
    INITIAL_VELOCITY = 2


def philox(counter: Sequence[Tensor | int], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x64-10 block of each counter; four words in, four words out, int64 that hold the bits of uint64."""
    c0, c1, c2, c3 = (word if isinstance(word, Tensor) else torch.tensor(word) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ _signed(k0), low1, high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = k0 + _KEY_STEPS[0], k1 + _KEY_STEPS[1]
    return c0, c1, c2, c3


def standard_normal(
    seed: int,
    stream: int,
    step: int,
    global_cells: Tensor,
    basis: int = 1,
    components: int = 1,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Standard normal field ``[*cells, basis, components]`` of one step; ``global_cells`` int64 ``[*cells]``.

    Computed in float64 and rounded to ``dtype``.  Raises :class:`ConfigError` for a seed outside ``[0, 2^64)``.
    """
    return _normals(seed, stream, step // _LANES, global_cells, basis, components, dtype)[step % _LANES]


class NoiseField:
    """:data:`interfaces.Noise` on the owned cells of a domain: ``noise(step)`` is :func:`standard_normal` of that step.

    Keeps the eight steps of the last block, so that steps taken in order cost an eighth of a block each.
    """

    def __init__(self, seed: int, stream: int, domain: Domain, components: int = 1, dtype: torch.dtype = torch.float64) -> None:
        _check_seed(seed)
        self._seed, self._stream = seed, stream
        self._cells = domain.global_cells()
        self._shape = (len(domain.lattice.basis), components)
        self._dtype = dtype
        self._block: int | None = None
        self._normals = torch.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Field ``[*cells, basis, components]``; do not change it in place."""
        block, lane = divmod(step, _LANES)
        if block != self._block:
            self._normals = _normals(self._seed, self._stream, block, self._cells, *self._shape, self._dtype)
            self._block = block
        return self._normals[lane]


def _normals(
    seed: int, stream: int, block: int, global_cells: Tensor, basis: int, components: int, dtype: torch.dtype
) -> Tensor:
    """The normals of steps ``8 block ... 8 block + 7``, ``[8, *cells, basis, components]``."""
    _check_seed(seed)
    per_cell = basis * components
    inner = torch.arange(per_cell, device=global_cells.device)
    sites = (global_cells.reshape(-1, 1) * per_cell + inner).reshape(-1)
    normals = torch.empty((_LANES, sites.numel()), dtype=dtype, device=sites.device)
    size = _CHUNK.get(sites.device.type, _CHUNK["cpu"])
    for chunk, part in zip(sites.split(size), normals.split(size, dim=1), strict=True):
        _box_muller(_uniforms(chunk, block, (seed, stream)), part)
    return normals.reshape(_LANES, *global_cells.shape, basis, components)


def _uniforms(sites: Tensor, block: int, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Low and high halves of the words of each site, as uniforms ``[4, sites]``; the same bits on all devices."""
    if sites.device.type == "cpu":
        halves = torch.empty((2, 4, sites.numel()), dtype=torch.float64)
        fill_uniforms(sites.numpy(), block, *map(_signed, key), halves.numpy())
        return halves[0], halves[1]
    words = torch.stack(philox((sites, block, 0, 0), key))
    return _uniform(words & _LOW), _uniform((words >> 32) & _LOW)


def _box_muller(uniforms: tuple[Tensor, Tensor], normals: Tensor) -> None:
    """Fill ``normals`` ``[8, sites]``: two from each pair of uniforms, ``sqrt(-2 ln u) (cos, sin)(2 pi u')``."""
    radius = uniforms[0].log_().mul_(-2).sqrt_()
    angle = uniforms[1].mul_(2 * math.pi)
    torch.mul(radius, angle.cos(), out=normals[0::2])
    torch.mul(radius, angle.sin(), out=normals[1::2])


def _uniform(half: Tensor) -> Tensor:
    """32 bits to the middle of their interval in (0, 1): never 0, exact in float64."""
    return half.to(torch.float64).add_(0.5).mul_(2.0**-32)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of the 128-bit product of unsigned 64-bit ``a`` and ``b``, by 32-bit halves."""
    b_high, b_low = b >> 32, b & _LOW
    a_high, a_low = (a >> 32) & _LOW, a & _LOW
    low = a_low * b_low
    middle = (a_high * b_low).add_((low >> 32) & _LOW)
    cross = (a_low * b_high).add_(middle & _LOW)
    high = (a_high * b_high).add_((middle >> 32) & _LOW).add_((cross >> 32) & _LOW)
    return high, a * _signed(b)


def _signed(word: int) -> int:
    """The int64 with the bits of ``word`` modulo 2^64."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 1 << 64:
        raise ConfigError(f"seed = {seed} is not an unsigned 64-bit number: give an integer from 0 to 2^64 - 1")
