"""Symmetric splitting of Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_holstein.dynamics._langevin import SAFE, Langevin, force_of
from hpc_holstein.interfaces import ForceProvider, Noise, State


@dataclass(frozen=True)
class BAOAB(Langevin):
    """Symmetric splitting kick-drift-noise-drift-kick: second order in ``dt`` throughout.

    In a harmonic well of stiffness ``K`` it gives ``<Q^2> = kT/K`` exactly and ``<v^2> = (kT/m) (1 - K dt^2 / 4m)``; source:
    Leimkuhler and Matthews, doi:10.1093/amrx/abs010.  Use it instead of ``verlet-ou`` where no comparison with the published
    runs is wanted.
    """

    weak_order = 2
    biased, exact = "the kinetic temperature", "<Q^2>"

    def bias(self, stiffness: float) -> float:
        """``-x`` of the kinetic temperature."""
        return -self.fraction(stiffness)

    def safe_fraction(self) -> float:
        """The ``x`` at which the bias is :data:`SAFE`."""
        return SAFE

    def step(self, state: State, forces: ForceProvider, noise: Noise) -> State:
        """The state one ``dt`` later; ``noise(state.step)`` is the ``xi`` of this step."""
        velocity = state.velocity + (0.5 * self.dt / self.mass) * force_of(state)
        q = state.q + 0.5 * self.dt * velocity
        velocity = self.ornstein_uhlenbeck(velocity, noise, state.step)
        q = q + 0.5 * self.dt * velocity
        new = forces(state.moved(q=q))
        velocity = velocity + (0.5 * self.dt / self.mass) * new.force
        return State(q, velocity, state.step + 1, new)


build = BAOAB
