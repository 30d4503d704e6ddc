"""Kernels that damp a truncated Chebyshev series of a density, and the order that gives them a width in energy.

    Jackson  g_m = [(M - m + 1) cos(pi m / (M + 1)) + sin(pi m / (M + 1)) cot(pi / (M + 1))] / (M + 1)
    Lorentz  g_m = sinh(lambda (1 - m/M)) / sinh(lambda)

Without them the series of a delta function oscillates.  The Jackson kernel makes it a positive peak close to a Gaussian, the
Lorentz kernel close to a Lorentzian, as a finite lifetime does.  ``g_0 = 1``: sum rules hold.
Source: Weisse et al., Rev. Mod. Phys. 78, 275 (2006), arXiv cond-mat/0504627.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.errors import ConfigError

Array = NDArray[np.float64]

KERNELS = ("jackson", "lorentz")
_MOST_ORDER = 100_000


def jackson(terms: int) -> Array:
    """Factors ``g_m``, ``[terms]``, of a peak of standard deviation ``pi / terms`` in the middle of [-1, 1]."""
    m, step = np.arange(terms), math.pi / (terms + 1)
    return ((terms - m + 1) * np.cos(m * step) + np.sin(m * step) / math.tan(step)) / (terms + 1)


def lorentz(terms: int, decay: float) -> Array:
    """Factors ``g_m``, ``[terms]``, of a peak of half width at half maximum ``decay / terms`` in the middle of [-1, 1]."""
    return np.sinh(decay * (1 - np.arange(terms) / terms)) / math.sinh(decay)


def order(kernel: str, half_width: float, resolution: float, decay: float) -> int:
    """Terms for a peak of width ``resolution`` in the middle of a spectrum of ``half_width``, both energies.

    Raises :class:`ConfigError` where they exceed 100,000.
    """
    width = (math.pi if kernel == "jackson" else decay) * half_width
    if width > _MOST_ORDER * resolution:
        raise ConfigError(
            f"resolution = {resolution:g} on a spectrum of half width {half_width:.3g} needs more than {_MOST_ORDER} moments: "
            f"give {width / _MOST_ORDER:.2g} t_nn or more"
        )
    return max(4, math.ceil(width / resolution))
