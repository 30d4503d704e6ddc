"""Velocity Verlet and an Ornstein-Uhlenbeck kick."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_holstein.dynamics._langevin import SAFE, Langevin, force_of
from hpc_holstein.interfaces import ForceProvider, Noise, State


@dataclass(frozen=True)
class VerletOU(Langevin):
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
        x = self.fraction(stiffness)
        return x / (1 - x)

    def safe_fraction(self) -> float:
        """The ``x`` at which the bias is :data:`SAFE`."""
        return SAFE / (1 + SAFE)

    def step(self, state: State, forces: ForceProvider, noise: Noise) -> State:
        """The state one ``dt`` later; ``noise(state.step)`` is the ``xi`` of this step."""
        old = force_of(state)
        q = state.q + self.dt * state.velocity + (0.5 * self.dt**2 / self.mass) * old
        new = forces(state.moved(q=q))
        velocity = state.velocity + (0.5 * self.dt / self.mass) * (old + new.force)
        velocity = self.ornstein_uhlenbeck(velocity, noise, state.step)
        return State(q, velocity, state.step + 1, new)


build = VerletOU
