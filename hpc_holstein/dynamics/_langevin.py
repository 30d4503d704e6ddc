"""Langevin dynamics of the lattice coordinates: what its one-step schemes, files of this folder, share.

    dQ = v dt,   m dv = F(Q) dt - m gamma v dt + sqrt(2 m gamma kT) dW

``gamma`` is a rate, so the exact Ornstein-Uhlenbeck flow of the velocity over ``dt`` is
``v -> a v + sqrt((1 - a^2) kT / m) xi`` with ``a = exp(-gamma dt)``.  ``gamma = 0`` makes the schemes energy-conserving
velocity Verlet (NVE).  All fields are ``[*batch, *cells, basis, components]`` of the owned cells; nothing crosses ranks here.

A mode of stiffness ``K`` is stable for ``x = K dt^2 / 4m < 1``, and its averages are off by a function of ``x`` alone, at any
``gamma``.  Electrons only soften the modes: their free energy is concave in ``Q``, in both ensembles, since ``Omega`` is
concave in ``Q`` and ``mu`` together.  So the stiffest mode of the classical potential is the bound of ``dt`` in every state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import ForceProvider, ForceResult, Noise, State

if TYPE_CHECKING:
    from torch import Tensor

SAFE = 0.01
"""Relative error of an average of the stiffest mode up to which a time step is called safe."""


@dataclass(frozen=True)
class Langevin(ABC):
    """Parameters and sub-flows that the schemes share.

    ``biased`` is the average that a finite ``dt`` makes wrong in a harmonic well, and ``exact`` one that does not show it.
    """

    mass: float
    gamma: float
    dt: float
    kT: float
    force_calls = 1
    biased: ClassVar[str]
    exact: ClassVar[str]

    @abstractmethod
    def bias(self, stiffness: float) -> float:
        """Relative error of the average ``biased`` of a stable mode of ``stiffness`` [t_nn/a^2]."""

    @abstractmethod
    def safe_fraction(self) -> float:
        """The ``x`` at which the bias is :data:`SAFE`."""

    def unstable_step(self, stiffness: float) -> float:
        """``dt = 2 / omega`` [hbar/t_nn], from which on a mode of ``stiffness`` [t_nn/a^2] grows without bound."""
        return 2 * math.sqrt(self.mass / stiffness)

    def safe_step(self, stiffness: float) -> float:
        """Largest ``dt`` [hbar/t_nn] at which the averages of a mode of ``stiffness`` are right within :data:`SAFE`."""
        return self.unstable_step(stiffness) * math.sqrt(self.safe_fraction())

    def require_stable(self, stiffness: float) -> None:
        """Raise ConfigError where a mode of ``stiffness`` grows without bound."""
        if self.dt >= self.unstable_step(stiffness):
            raise ConfigError(
                f"dynamics.dt = {self.dt:g} hbar/t_nn is unstable: the stiffest lattice mode ({stiffness:.3g} t_nn/a^2) needs "
                f"dt < 2/omega = {self.unstable_step(stiffness):.3g}; give {_rounded_down(self.safe_step(stiffness)):g} or "
                f"less, at which {self.biased} is right within {100 * SAFE:g} %"
            )

    def is_safe(self, stiffness: float) -> bool:
        """True if the averages of a mode of ``stiffness`` are right within :data:`SAFE`."""
        return abs(self.bias(stiffness)) <= SAFE

    def time_step_in_words(self, stiffness: float) -> str:
        """One sentence: ``dt`` is safe, or which average is off by how much; and the bounds from the stiffest mode."""
        bounds = (
            f"the stiffest lattice mode ({stiffness:.3g} t_nn/a^2) has {self.biased} right within {100 * SAFE:g} % up to "
            f"{_rounded_down(self.safe_step(stiffness)):g}, and is unstable from 2/omega = {self.unstable_step(stiffness):.3g}"
        )
        if self.is_safe(stiffness):
            return f"dt = {self.dt:g} hbar/t_nn is safe: {bounds}"
        bias = self.bias(stiffness)
        way = "large" if bias > 0 else "small"
        return (
            f"warning: dt = {self.dt:g} hbar/t_nn is too large: {self.biased} of the stiffest lattice mode is "
            f"{100 * abs(bias):.3g} % too {way}, which {self.exact} does not show; {bounds}"
        )

    def fraction(self, stiffness: float) -> float:
        """``x = K dt^2 / 4m``."""
        return stiffness * self.dt**2 / (4 * self.mass)

    def init(self, state: State, forces: ForceProvider) -> State:
        """The state with the forces of its ``q``, computed if it has none."""
        return state if state.forces is not None else state.moved(forces=forces(state))

    def ornstein_uhlenbeck(self, velocity: Tensor, noise: Noise, step: int) -> Tensor:
        """Exact flow of friction and noise over ``dt``; the identity, without a draw, at ``gamma = 0``."""
        if self.gamma == 0:
            return velocity
        a = math.exp(-self.gamma * self.dt)
        b = math.sqrt(-math.expm1(-2 * self.gamma * self.dt) * self.kT / self.mass)
        return a * velocity + b * noise(step)


def _rounded_down(value: float) -> float:
    """To two digits."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / scale) * scale


def force_of(state: State) -> Tensor:
    """Force on the lattice at ``state.q``, which :meth:`Langevin.init` and every step leave there."""
    forces: ForceResult | None = state.forces
    if forces is None:
        raise ValueError("the state carries no forces: pass it through init(state, forces) first")
    return forces.force
