"""Langevin dynamics of the lattice coordinates: one-step schemes, chosen by name.

    dQ = v dt,   m dv = F(Q) dt - m gamma v dt + sqrt(2 m gamma kT) dW

``gamma`` is a rate, so the exact Ornstein-Uhlenbeck flow of the velocity over ``dt`` is
``v -> a v + sqrt((1 - a^2) kT / m) xi`` with ``a = exp(-gamma dt)``.  ``gamma = 0`` makes both schemes energy-conserving
velocity Verlet (NVE).  All fields are ``[*batch, *cells, basis, components]`` of the owned cells; nothing crosses ranks here.

A mode of stiffness ``K`` is stable for ``x = K dt^2 / 4m < 1``, and its averages are off by a function of ``x`` alone, at any
``gamma``.  Electrons only soften the modes: their free energy is concave in ``Q``, in both ensembles, since ``Omega`` is
concave in ``Q`` and ``mu`` together.  So the stiffest mode of the classical potential is the bound of ``dt`` in every state.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import ForceProvider, ForceResult, Integrator, Noise, State

if TYPE_CHECKING:
    from torch import Tensor

SAFE = 0.01
"""Relative error of an average of the stiffest mode up to which a time step is called safe."""


@dataclass(frozen=True)
class _Langevin(ABC):
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

    def _fraction(self, stiffness: float) -> float:
        """``x = K dt^2 / 4m``."""
        return stiffness * self.dt**2 / (4 * self.mass)

    def init(self, state: State, forces: ForceProvider) -> State:
        """The state with the forces of its ``q``, computed if it has none."""
        return state if state.forces is not None else state.moved(forces=forces(state))

    def _ornstein_uhlenbeck(self, velocity: Tensor, noise: Noise, step: int) -> Tensor:
        """Exact flow of friction and noise over ``dt``; the identity, without a draw, at ``gamma = 0``."""
        if self.gamma == 0:
            return velocity
        a = math.exp(-self.gamma * self.dt)
        b = math.sqrt(-math.expm1(-2 * self.gamma * self.dt) * self.kT / self.mass)
        return a * velocity + b * noise(step)


@dataclass(frozen=True)
class VerletOU(_Langevin):
    """Velocity Verlet, then an Ornstein-Uhlenbeck kick, as in arXiv 2601.04104.

    ``Q += v dt + F dt^2 / 2m``, ``v += (F_old + F_new) dt / 2m``, ``v = a v + sqrt((1 - a^2) kT / m) xi``.  Being the
    product of two exact-to-second-order flows in one order only, it is of first order in ``dt`` on the way to equilibrium
    and of second order in equilibrium averages.  In a harmonic well of stiffness ``K`` it gives ``<v^2> = kT/m`` exactly and
    ``<Q^2> = (kT/K) / (1 - K dt^2 / 4m)``: a right temperature proves nothing about ``dt``.
    """

    weak_order = 1
    biased, exact = "<Q^2>", "the kinetic temperature"

    def bias(self, stiffness: float) -> float:
        """``x / (1 - x)`` of ``<Q^2>``."""
        x = self._fraction(stiffness)
        return x / (1 - x)

    def safe_fraction(self) -> float:
        """The ``x`` at which the bias is :data:`SAFE`."""
        return SAFE / (1 + SAFE)

    def step(self, state: State, forces: ForceProvider, noise: Noise) -> State:
        """The state one ``dt`` later; ``noise(state.step)`` is the ``xi`` of this step."""
        old = _force(state)
        q = state.q + self.dt * state.velocity + (0.5 * self.dt**2 / self.mass) * old
        new = forces(state.moved(q=q))
        velocity = state.velocity + (0.5 * self.dt / self.mass) * (old + new.force)
        velocity = self._ornstein_uhlenbeck(velocity, noise, state.step)
        return State(q, velocity, state.step + 1, new)


@dataclass(frozen=True)
class BAOAB(_Langevin):
    """Symmetric splitting kick-drift-noise-drift-kick: second order in ``dt`` throughout.

    In a harmonic well of stiffness ``K`` it gives ``<Q^2> = kT/K`` exactly and ``<v^2> = (kT/m) (1 - K dt^2 / 4m)``; source:
    Leimkuhler and Matthews, doi:10.1093/amrx/abs010.  Use it instead of ``verlet-ou`` where no comparison with the published
    runs is wanted.
    """

    weak_order = 2
    biased, exact = "the kinetic temperature", "<Q^2>"

    def bias(self, stiffness: float) -> float:
        """``-x`` of the kinetic temperature."""
        return -self._fraction(stiffness)

    def safe_fraction(self) -> float:
        """The ``x`` at which the bias is :data:`SAFE`."""
        return SAFE

    def step(self, state: State, forces: ForceProvider, noise: Noise) -> State:
        """The state one ``dt`` later; ``noise(state.step)`` is the ``xi`` of this step."""
        velocity = state.velocity + (0.5 * self.dt / self.mass) * _force(state)
        q = state.q + 0.5 * self.dt * velocity
        velocity = self._ornstein_uhlenbeck(velocity, noise, state.step)
        q = q + 0.5 * self.dt * velocity
        new = forces(state.moved(q=q))
        velocity = velocity + (0.5 * self.dt / self.mass) * new.force
        return State(q, velocity, state.step + 1, new)


SCHEMES: dict[str, type[VerletOU] | type[BAOAB]] = {"verlet-ou": VerletOU, "baoab": BAOAB}


def build(scheme: str, mass: float, gamma: float, dt: float, kT: float) -> Integrator:
    """The integrator ``scheme`` (a key of ``SCHEMES``); raises ConfigError for a name or a parameter that cannot be run."""
    if scheme not in SCHEMES:
        nearest = difflib.get_close_matches(scheme, SCHEMES, n=1, cutoff=0.0)[0]
        raise ConfigError(f'scheme = "{scheme}" is not known: use one of {", ".join(SCHEMES)} (nearest: "{nearest}")')
    for name, value in (("mass", mass), ("dt", dt)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} = {value} cannot be integrated: give a positive number")
    for name, value in (("gamma", gamma), ("kT", kT)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{name} = {value} cannot be integrated: give zero or a positive number")
    return SCHEMES[scheme](mass, gamma, dt, kT)


def _rounded_down(value: float) -> float:
    """To two digits."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / scale) * scale


def _force(state: State) -> Tensor:
    """Force on the lattice at ``state.q``, which :meth:`_Langevin.init` and every step leave there."""
    forces: ForceResult | None = state.forces
    if forces is None:
        raise ValueError("the state carries no forces: pass it through init(state, forces) first")
    return forces.force
