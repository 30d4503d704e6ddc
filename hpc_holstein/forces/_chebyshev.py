"""Chebyshev expansion of functions of a matrix: interval, order, coefficients, and what the moments of the trace tell.

    f(H) = sum_{m < M} c_m T_m((H - a) / b),    c_m = (2 - delta_m0) / n sum_j f(a + b cos theta_j) cos(m theta_j)

The Fermi function at ``kT > 0`` is analytic up to ``mu +- i pi kT``, so its coefficients fall as ``exp(-m asinh(pi kT / b))``
and need no damping kernel.  Energies are float64 NumPy arrays on the host, in units of ``t_nn``.
Source: Weisse et al., Rev. Mod. Phys. 78, 275 (2006), arXiv cond-mat/0504627.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, next_fast_len
from scipy.optimize import brentq
from scipy.special import expit

from hpc_holstein.errors import SpectrumError

Array = NDArray[np.float64]

_GRID = 128  # steps of the interval to a power of two of its width: states that are images of each other share one
_MOST_ORDER = 100_000
_FAR = 50.0  # Fermi functions are 0 or 1 to round-off so many kT from the chemical potential
_FLAT = 0.1  # in units of kT: where the filling is met over a wider range of mu, electrons do not tell mu to round-off


@dataclass(frozen=True)
class Interval:
    """Energies ``[low, high]`` that map onto [-1, 1]."""

    low: float
    high: float

    @classmethod
    def enclosing(cls, lowest: float, highest: float) -> Interval:
        """The bounds rounded outwards by 0.2 to 2 per cent of the width, so that round-off in them does not matter."""
        width = highest - lowest
        grid = 2.0 ** math.floor(math.log2(width if width > 0 else 1.0)) / _GRID
        return cls(-math.ceil(-lowest / grid + 0.25) * grid, math.ceil(highest / grid + 0.25) * grid)

    @property
    def centre(self) -> float:
        """Energy that maps onto 0."""
        return 0.5 * (self.low + self.high)

    @property
    def half_width(self) -> float:
        """Energy that maps onto a unit step."""
        return 0.5 * (self.high - self.low)


def fermi_order(interval: Interval, kT: float, error: float) -> int:
    """Number of terms that leaves ``|f - f_M| <= error`` for any chemical potential: ``(4/pi) exp(-M asinh(pi kT/b))``.

    Raises :class:`SpectrumError` where it exceeds 100,000 terms.
    """
    terms = math.ceil(math.log(4 / (math.pi * error)) / math.asinh(math.pi * kT / interval.half_width))
    if terms > _MOST_ORDER:
        raise SpectrumError(
            f"kT = {kT} on a spectrum of half width {interval.half_width:.3g} needs a Chebyshev expansion of order {terms}, "
            f"above {_MOST_ORDER}: raise kT or the tolerance, or use force kind 'exact'"
        )
    return max(terms, 4)


def fermi_coefficients(interval: Interval, mu: Array, kT: float, terms: int) -> Array:
    """Coefficients ``[len(mu), terms]`` of ``f(E) = 1 / (1 + exp((E - mu) / kT))``."""
    energies = _nodes(interval, terms)
    values = expit((np.asarray(mu)[:, None] - energies) / kT)
    coefficients = dct(values, type=2, axis=-1)[:, :terms] / energies.size
    coefficients[:, 0] *= 0.5
    return coefficients


def _nodes(interval: Interval, terms: int) -> Array:
    """Energies at the Chebyshev points; twice as many as terms, so that what aliases is below the truncation error."""
    points = next_fast_len(2 * terms, real=True)
    return interval.centre + interval.half_width * np.cos(np.pi * (np.arange(points) + 0.5) / points)


class DensityOfStates:
    """Moments ``tau_m = Tr T_m`` per site as weights ``w_j`` of the energies at the Chebyshev points.

    ``sum_j w_j F(E_j) = sum_m c_m[F] tau_m`` for every ``F``: electron number and grand potential at any ``mu`` at once.
    """

    def __init__(self, interval: Interval, moments: Array, kT: float) -> None:
        self.interval, self.kT = interval, kT
        self.energies = _nodes(interval, moments.size)
        self.weights = dct(moments, type=3, n=self.energies.size) / self.energies.size

    def filling(self, mu: float) -> float:
        """Electrons per site."""
        return float(self.weights @ expit((mu - self.energies) / self.kT))

    def response(self, mu: float) -> float:
        """``kT d(filling)/d(mu)``; noise where that is small, as in a gap."""
        x = (mu - self.energies) / self.kT
        return float(self.weights @ (expit(x) * expit(-x)))

    def grand_potential(self, mu: float) -> float:
        """``Omega`` per site."""
        return float(-self.kT * self.weights @ np.logaddexp(0.0, (mu - self.energies) / self.kT))

    def chemical_potential(self, filling: float, noise: float) -> float:
        """``mu`` of a filling whose value is known to ``noise``.

        In a gap the filling does not change by more than the noise: there the two ``mu`` at which it departs from it by
        several times as much lie at equal distance from the solution, as both edges respond as ``exp(+-mu / kT)``.
        """
        slack = min(8 * noise, 0.1 * filling, 0.1 * (1 - filling))
        lowest, highest = self.interval.low - _FAR * self.kT, self.interval.high + _FAR * self.kT
        try:
            below = brentq(lambda mu: self.filling(mu) - (filling - slack), lowest, highest, xtol=1e-13)
            above = brentq(lambda mu: self.filling(mu) - (filling + slack), below, highest, xtol=1e-13)
            if above - below > _FLAT * self.kT:
                return 0.5 * (below + above)
            return float(brentq(lambda mu: self.filling(mu) - filling, below, above, xtol=1e-14, rtol=1e-15))
        except ValueError as error:
            raise SpectrumError(
                f"no chemical potential gives filling {filling} within the noise {noise:.1e} of the moments: "
                "lower the tolerance or use more vectors"
            ) from error


@dataclass(frozen=True)
class PotentialNodes:
    """Chemical potentials at which a sweep evaluates everything, for interpolation to any ``mu`` in between.

    Chebyshev points of ``[centre - radius, centre + radius]``; with ``p = pi kT / radius`` the error falls as
    ``(p + sqrt(1 + p^2))^-K``, since quantities are analytic up to ``+- i pi kT``.
    """

    centre: float
    radius: float
    values: Array

    @classmethod
    def around(cls, centre: float, radius: float, kT: float, error: float) -> PotentialNodes:
        """Enough points for a relative error of ``error``; radius 0 makes a single one."""
        if radius == 0:
            return cls(centre, 0.0, np.array([centre]))
        count = math.ceil(math.log(1 / error) / math.asinh(math.pi * kT / radius)) + 2
        return cls(centre, radius, centre + radius * np.cos(np.pi * (np.arange(count) + 0.5) / count))

    def hold(self, mu: float) -> bool:
        """True if ``mu`` can be interpolated."""
        return abs(mu - self.centre) <= self.radius

    def weights(self, mu: float) -> Array:
        """Lagrange weights ``[K]`` of the points, in barycentric form."""
        distance = mu - self.values
        if (distance == 0).any():
            return (distance == 0).astype(np.float64)
        angles = np.pi * (np.arange(self.values.size) + 0.5) / self.values.size
        terms = (-1.0) ** np.arange(self.values.size) * np.sin(angles) / distance
        return terms / terms.sum()
