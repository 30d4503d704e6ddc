"""Langevin dynamics of the lattice coordinates: one-step schemes, chosen by name.

    dQ = v dt,   m dv = F(Q) dt - m gamma v dt + sqrt(2 m gamma kT) dW

``gamma`` is a rate, so the exact Ornstein-Uhlenbeck flow of the velocity over ``dt`` is
``v -> a v + sqrt((1 - a^2) kT / m) xi`` with ``a = exp(-gamma dt)``.  ``gamma = 0`` makes both schemes energy-conserving
velocity Verlet (NVE).  All fields are ``[*batch, *cells, basis, components]`` of the owned cells; nothing crosses ranks here.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import ForceProvider, ForceResult, Integrator, Noise, State

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Langevin:
    """Parameters and sub-flows that the schemes share."""

    mass: float
    gamma: float
    dt: float
    kT: float
    force_calls = 1

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
    and of second order in equilibrium averages.
    """

    weak_order = 1

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

    Configurational averages of a harmonic well are exact at any stable ``dt``; source: Leimkuhler and Matthews,
    doi:10.1093/amrx/abs010.  Use it instead of ``verlet-ou`` where no comparison with the published runs is wanted.
    """

    weak_order = 2

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


def _force(state: State) -> Tensor:
    """Force on the lattice at ``state.q``, which :meth:`_Langevin.init` and every step leave there."""
    forces: ForceResult | None = state.forces
    if forces is None:
        raise ValueError("the state carries no forces: pass it through init(state, forces) first")
    return forces.force
