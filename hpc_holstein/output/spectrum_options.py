"""Options of a density of states; apart from what computes it, so that the command line loads nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SpectrumOptions:
    """Resolution and accuracy.

    kernel          ``"jackson"``: near-Gaussian peaks, never negative; ``"lorentz"``: near-Lorentzian ones
    resolution      energy width of a peak in the middle of the spectrum [t_nn], its standard deviation (jackson) or half
                    width at half maximum (lorentz); it sets the order, and peaks nearer to the edges are narrower
    lorentz_lambda  of the Lorentz kernel; 3 to 5 as a rule, larger values make peaks closer to a Lorentzian
    vectors         random vectors of the total density of states; its error falls as ``1 / sqrt(vectors * sites)``
    seed            of the vectors
    """

    kernel: Literal["jackson", "lorentz"] = "jackson"
    resolution: float = 0.1
    lorentz_lambda: float = 4.0
    vectors: int = 16
    seed: int = 0
