"""Occupation of a spectrum: Fermi function, grand potential, and the chemical potential of a given electron number.

    f_k = 1 / (1 + exp((e_k - mu) / kT)),   Omega = -kT sum_k ln(1 + exp(-(e_k - mu) / kT)),   sum_k f_k = N_e

At ``kT = 0`` these are the limits: a level at ``mu`` is half filled (grand-canonical), or a degenerate level holds what is
left of the electrons in equal parts (canonical), and ``mu`` lies in the middle of a gap.  Energies are sorted float64
arrays ``[levels]`` on the host, in units of ``t_nn``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

Array = NDArray[np.float64]

RESOLVED = 1e-7
"""Electrons per site: round-off of a mean density in float32."""

_DEGENERATE = 1e-10  # levels closer than this part of the largest |energy| are one level: eigensolvers split it at 1e-14
_WHOLE_NUMBER = 1e-12  # an electron number this close to an integer, per level, is that integer: filling * levels is rounded
_MOST_ITERATIONS = 300  # far above what bisection of the float64 line needs


def fermi(energies: Array, mu: float, kT: float) -> Array:
    """Occupation ``f_k`` of every level at a given chemical potential, in [0, 1]."""
    if kT == 0:
        return np.where(_same_level(energies, mu), 0.5, (energies < mu).astype(np.float64))
    return expit((mu - energies) / kT)


def grand_potential(energies: Array, mu: float, kT: float) -> float:
    """Electronic grand potential ``Omega`` of the spectrum (an energy, extensive)."""
    if kT == 0:
        return float(np.minimum(energies - mu, 0.0).sum())
    return float(-kT * np.logaddexp(0.0, (mu - energies) / kT).sum())


def fill(energies: Array, electrons: float, kT: float) -> tuple[float, Array]:
    """Chemical potential and occupations that hold ``electrons`` in the levels, to round-off; ``0 < electrons < levels``."""
    nearest = round(electrons)
    if 0 < nearest < energies.size and abs(electrons - nearest) <= _WHOLE_NUMBER * energies.size:
        electrons = float(nearest)
    if kT == 0:
        return _fill_ground_state(energies, electrons)
    mu = _solve(energies, electrons, kT)
    return mu, fermi(energies, mu, kT)


def uncertainty(energies: Array, mu: float, kT: float) -> float:
    """Uncertainty of ``mu``, how far it may move until the mean occupation does [t_nn]; at ``kT = 0`` to the next level."""
    if kT == 0:
        return float(np.abs(energies - mu).min())
    x = (mu - energies) / kT
    return potential_uncertainty(float(np.mean(expit(x) * expit(-x))), kT)


def potential_uncertainty(chi: float, kT: float, resolved: float = RESOLVED) -> float:
    """Uncertainty of ``mu``, how far it may move until the mean density moves by ``resolved`` [electrons/site]; t_nn.

    ``chi = kT d(mean n)/d(mu) = mean sum_k w_k f_k (1 - f_k)`` at ``mu``.  In a gap it grows as ``cosh`` about the middle, so
    that is ``kT asinh(resolved / chi)``.
    """
    return kT * math.asinh(resolved / max(chi, sys.float_info.min))


def _same_level(energies: Array, energy: float) -> NDArray[np.bool_]:
    return np.abs(energies - energy) <= _DEGENERATE * np.abs(energies).max()


def _fill_ground_state(energies: Array, electrons: float) -> tuple[float, Array]:
    """Fill from below; the last level, degenerate or not, takes the remainder in equal parts."""
    highest = energies[int(np.ceil(electrons)) - 1]
    level = _same_level(energies, highest)
    below = (energies < highest) & ~level
    above = (energies > highest) & ~level
    share = (electrons - below.sum()) / level.sum()
    full = share == 1 and bool(above.any())
    mu = 0.5 * (energies[level].max() + energies[above].min()) if full else energies[level].mean()
    return float(mu), below + share * level


def _solve(energies: Array, electrons: float, kT: float) -> float:
    """Chemical potential at ``kT > 0``.

    Counted from the nearest integer ``n``, the electrons above level ``n`` balance the holes below it, and the equation
    is solved between the logarithms of the two: ``ln(electrons + a) = ln(holes + b)``, ``b - a = N_e - n``.  This keeps
    ``mu`` sharp in the middle of a gap that is wide against ``kT``, where ``sum_k f_k`` itself does not move at all.
    """
    whole = round(electrons)
    low, high = energies[:whole], energies[whole:]
    with np.errstate(divide="ignore"):
        a, b = np.log(max(whole - electrons, 0.0)), np.log(max(electrons - whole, 0.0))

    def balance(mu: float) -> tuple[float, float]:
        electron, electron_slope = _log_sum(log_expit((mu - high) / kT), a)
        hole, hole_slope = _log_sum(log_expit((low - mu) / kT), b)
        return electron - hole, (electron_slope + hole_slope) / kT

    start = 0.5 * (energies[max(whole - 1, 0)] + energies[min(whole, energies.size - 1)])
    return root(balance, float(start), kT)


def _log_sum(log_f: Array, log_rest: float) -> tuple[float, float]:
    """``ln(sum_k f_k + rest)`` and its derivative by the exponent of every ``f_k``, whose own is ``f_k (1 - f_k)``."""
    top = max(float(log_f.max(initial=-np.inf)), float(log_rest))
    weights = np.exp(log_f - top)
    total = weights.sum() + np.exp(log_rest - top)
    return top + float(np.log(total)), float((weights * -np.expm1(log_f)).sum() / total)


def root(increasing: Callable[[float], tuple[float, float]], start: float, width: float) -> float:
    """Root of an increasing function that returns (value, slope): bracket, then Newton held inside by bisection."""
    low = high = start
    step = width
    while increasing(low)[0] > 0:
        low, step = low - step, 2 * step
    step = width
    while increasing(high)[0] < 0:
        high, step = high + step, 2 * step
    x, previous = 0.5 * (low + high), high - low
    for _ in range(_MOST_ITERATIONS):
        value, slope = increasing(x)
        low, high = (x, high) if value < 0 else (low, x)
        newton = x - value / slope if slope > 0 else np.inf
        safe = low <= newton <= high and abs(newton - x) <= 0.5 * previous
        new = newton if safe else 0.5 * (low + high)
        x, previous = new, abs(new - x)
        if previous <= 2 * np.spacing(abs(x)) or value == 0:
            break
    return x
