"""Philox4x64-10 as compiled code for the CPU: the uniforms of many sites in one pass, with the words in registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpc_holstein.compiled import compiled

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_K0, _K1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # golden ratio, sqrt(3) - 1
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_ROUNDS = 10


@compiled
def _high(a: Any, b: Any) -> Any:
    """High word of the 128-bit product of unsigned 64-bit numbers, by halves."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + ((a0 * b0) >> _HALF)
    cross = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (cross >> _HALF)


@compiled
def fill_uniforms(sites: Any, block: int, seed: int, stream: int, halves: Any) -> None:
    """``halves [2, 4, n]``: low and high 32 bits of the words of the blocks ``(site, block, 0, 0)``, as uniforms.

    The middles of their intervals in (0, 1): never 0, exact in float64.  ``seed`` and ``stream``: the key, int64 bits.
    """
    for n in range(len(sites)):
        c0, c1, c2, c3 = np.uint64(sites[n]), np.uint64(block), np.uint64(0), np.uint64(0)
        k0, k1 = np.uint64(seed), np.uint64(stream)
        for _ in range(_ROUNDS):
            high0, high1 = _high(c0, _M0), _high(c2, _M1)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, c2 * _M1, high0 ^ c3 ^ k1, c0 * _M0
            k0, k1 = k0 + _K0, k1 + _K1
        for word, bits in enumerate((c0, c1, c2, c3)):
            halves[0, word, n] = (np.float64(bits & _LOW) + 0.5) * 2.0**-32
            halves[1, word, n] = (np.float64(bits >> _HALF) + 0.5) * 2.0**-32
