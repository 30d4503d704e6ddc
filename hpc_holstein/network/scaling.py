"""One network for every coupling: how a network of the shifted field sees a system of another scale than its own.

Density and grand potential are functions of ``(H - mu)/t`` and ``kT/t``, that is of ``(g/t)(Q + mu/g)`` and ``kT/t``.  A
network made at ``t_0``, ``g_0``, ``kT_0`` therefore serves every ``g``, and every common scale ``c = |t/t_0|`` of the energies
(the sign of ``t`` is a choice of phases where hopping joins two sublattices):

    n(Q + mu/g; t, g, kT) = n_0((g / c g_0) (Q + mu/g)),    kT = c kT_0,    dn/dmu = (1/c) dn_0/dmu_0,    Omega = c Omega_0.

The classical force knows ``t``, ``g``, ``k`` and ``kappa`` of the run and is computed from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scaling:
    """A system in the units of the one that a network was made for.

    energy  ``c``, an energy of the run over that of the network
    field   ``g / (c g_0)``, the field that the network reads over ``Q + mu/g``
    """

    energy: float = 1.0
    field: float = 1.0

    @classmethod
    def of(cls, here: Mapping[str, float], made_for: Mapping[str, float]) -> Scaling:
        """From the parameters ``t`` and ``g`` of a run and of the network; without hopping the scale is that of the network."""
        energy = abs(here["t"] / made_for["t"]) if made_for["t"] else 1.0
        return cls(energy, here["g"] / (energy * made_for["g"]))

    def in_words(self) -> str:
        """A sentence for a network at work in another system than its own; empty for its own."""
        if self == Scaling():
            return ""
        energies = f", with energies in units of {self.energy:g} of its own" if self.energy != 1 else ""
        return f"the network, made at another g, reads {self.field:.4g} times the field{energies}"
