"""Functions of the energy as sums over few poles, each of which costs one shifted linear system.

    F(E) = c + b E + sum_p Re[w_p / (E - z_p)],    z_p = centre + i y_p

All poles lie above one energy, the ``centre``.  The lowest ones are those of the Fermi function at ``mu = centre`` itself,
``y = pi kT, 3 pi kT, ...``; the rest replace its infinitely many others, which in the variable ``x = (E - centre)^2`` fill the
axis below ``-s^2``, where the poles of the best rational functions on ``[0, r^2]`` are Zolotarev's,

    y_p^2 = s^2 + s sqrt(s^2 + r^2) (1 + sn t_p) / (1 - sn t_p),    t_p = K (2p + 1 - n) / n.

Weights are fitted on a grid of energies, on which the largest error is then known.  For 1e-7 at ``r = 700 kT`` it takes 12
poles, a third of what a contour around the spectrum takes.  The weights alone depend on ``mu``, so that one set of solutions
tells the density in a ``window`` of chemical potentials, for which poles crowd about the first one.  Energies in ``t_nn``.
Source: Lin, Lu, Ying, E, Commun. Math. Sci. 7, 755 (2009); Hale, Higham, Trefethen, SIAM J. Numer. Anal. 46, 2505 (2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipj, ellipk, expit

from hpc_holstein.errors import SpectrumError

Array = NDArray[np.float64]

_POINTS = 1200  # energies of the fit; the error is looked for at twice as many
_MOST_POLES = 60
_STEPS = 8  # half widths are rounded up to powers of 2^(1/8): states that are images of each other share one
_ROUND_OFF = 1e-14  # singular values of the fit that are dropped
_SHARP_EDGES, _WIDE_EDGES = (0.9, 1.1), (0.3, 0.4, 0.5, 0.6)  # s, in units of the height of the last exact pole


@dataclass(frozen=True)
class Weights:
    """A function as ``constant + slope E + sum_p Re[poles_p / (E - z_p)]``, and its largest error on the spectrum."""

    constant: float
    slope: float
    poles: NDArray[np.complex128]
    error: float

    def trace(self, sites: float, energy: float, resolvents: NDArray[np.complex128]) -> float:
        """Its trace, from ``Tr 1``, ``Tr H`` and ``Tr (H - z_p)^-1 [poles]``."""
        return self.constant * sites + self.slope * energy + float((self.poles * resolvents).real.sum())


class PoleExpansion:
    """Poles ``centre + i heights`` for energies within ``half_width`` of ``centre``, and the weights of functions on them.

    ``error`` is asked of ``f(E - mu)`` for ``|mu - centre| <= window kT``; with a window above 0 also of the grand potential,
    in units of kT.  Raises :class:`SpectrumError` where that needs more than 60 poles.
    """

    def __init__(self, centre: float, half_width: float, kT: float, error: float, window: float = 0.0) -> None:
        ratio = 2.0 ** (math.ceil(_STEPS * math.log2(half_width / kT)) / _STEPS)
        reduced = _reduced_heights(ratio, error, window)
        if not reduced:
            raise SpectrumError(
                f"kT = {kT} on energies within {half_width:.3g} of the chemical potential needs more than {_MOST_POLES} poles "
                f"for an error of {error:.0e}: raise kT or the tolerance, or use force kind 'exact'"
            )
        self.centre, self.kT = centre, kT
        self.heights = kT * np.asarray(reduced)
        self._energies = kT * _grid(ratio, _POINTS)
        self._checked = kT * _grid(ratio, 2 * _POINTS + 1)

    def fermi(self, mu: float) -> Weights:
        """``f(E - mu)``."""
        return self._fit(lambda x: expit((mu - self.centre - x) / self.kT), linear=False)

    def grand_potential(self, mu: float) -> Weights:
        """``-kT ln(1 + exp((mu - E) / kT))``, whose trace is ``Omega``."""
        return self._fit(lambda x: -self.kT * np.logaddexp(0.0, (mu - self.centre - x) / self.kT), linear=True)

    def _fit(self, function: Callable[[Array], Array], linear: bool) -> Weights:
        """Least squares on the grid for a ``function`` of ``E - centre``."""
        left, right = self._factors[linear]
        found = right @ (left @ function(self._energies))
        error = np.abs(self._columns(self._checked, linear) @ found - function(self._checked)).max()
        count = len(self.heights)
        slope = float(found[-1]) if linear else 0.0
        poles = found[:count] + 1j * found[count : 2 * count]
        return Weights(float(found[2 * count]) - slope * self.centre, slope, poles, float(error))

    @cached_property
    def _factors(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """``U^T`` and ``V / s`` of the columns without and with the linear one; their product would lose eight digits."""
        return self._factor(linear=False), self._factor(linear=True)

    def _factor(self, linear: bool) -> tuple[Array, Array]:
        columns = self._columns(self._energies, linear)
        scale = np.abs(columns).max(axis=0)
        u, s, vt = np.linalg.svd(columns / scale, full_matrices=False)
        kept = s > _ROUND_OFF * s[0]
        return u.T[kept], vt[kept].T / s[kept] / scale[:, None]

    def _columns(self, x: Array, linear: bool) -> Array:
        """``Re 1/(x - iy)``, ``Re i/(x - iy)``, 1 and, if asked for, ``x``."""
        resolvents = 1 / (x[:, None] - 1j * self.heights)
        rest = [np.ones_like(x), x] if linear else [np.ones_like(x)]
        return np.column_stack([resolvents.real, -resolvents.imag, *rest])


def _grid(ratio: float, points: int) -> Array:
    """Energies in kT within ``ratio`` of 0, dense there and evenly spaced in their logarithm far away."""
    return 2 * np.sinh(np.linspace(-1, 1, points) * math.asinh(ratio / 2))


@cache
def _reduced_heights(ratio: float, error: float, window: float) -> tuple[float, ...]:
    """The fewest ``y_p / kT``, ascending, for energies within ``ratio`` kT; none where 60 do not suffice."""
    energies = _grid(ratio, _POINTS)[_POINTS // 2 :]
    for count in range(2, _MOST_POLES + 1):
        exact = (1, 2) if window else range(max(1, count // 5), count // 2 + 1)
        for number in exact:
            for edge in _WIDE_EDGES if window else _SHARP_EDGES:
                last = math.pi * max(1, 2 * number if not window else 2 * number - 1)
                heights = _heights(ratio, count, number, edge * last) if count > number else None
                if heights is not None and _error(energies, heights, window) <= error:
                    return tuple(np.sort(heights).tolist())
    return ()


def _heights(ratio: float, count: int, exact: int, edge: float) -> Array:
    """``count`` reduced heights, ``exact`` of them those of the Fermi function, the others Zolotarev's below ``-edge^2``."""
    rest = count - exact
    aspect = math.sqrt(1 + (ratio / edge) ** 2)
    modulus = ((aspect - 1) / (aspect + 1)) ** 2
    t = ellipk(modulus) * (2 * np.arange(rest) + 1 - rest) / rest
    sn = ellipj(t, modulus)[0]
    zolotarev = edge * np.sqrt(1 + aspect * (1 + sn) / (1 - sn))
    return np.concatenate([math.pi * (2 * np.arange(exact) + 1), zolotarev])


def _error(x: Array, heights: Array, window: float) -> float:
    """Largest error on energies ``x >= 0`` in kT: of the Fermi function and, for a window, of what it takes to shift it.

    About the centre ``f`` is odd but for a constant, ``f'`` and the grand potential are even but for a line.
    """
    denominator = x[:, None] ** 2 + heights**2
    f, slope = 0.5 * np.tanh(x / 2), expit(x) * expit(-x)
    if not window:
        return float(_misfit(x[:, None] / denominator, f[:, None])[0])
    odd = _misfit(x[:, None] / denominator, np.column_stack([f, -2 * f * slope]))
    even_columns = np.column_stack([heights / denominator, np.ones_like(x)])
    even = _misfit(even_columns, np.column_stack([slope, np.logaddexp(x / 2, -x / 2)]))
    return float(max(odd[0] + window * even[0] + 0.5 * window**2 * odd[1], even[1]))


def _misfit(columns: Array, functions: Array) -> Array:
    """Largest error of the least-squares fit of each function, ``[functions]``."""
    scaled = columns / np.abs(columns).max(axis=0)
    return np.abs(scaled @ np.linalg.lstsq(scaled, functions, rcond=_ROUND_OFF)[0] - functions).max(axis=0)
