"""Regimes of the states along quenches, each judged apart: by the charge order of the states, or by the time steps given.

Of the coordinates alone, so that a state is in one regime whoever computes its forces.  With the difference of each coordinate
to the mean of its neighbours,

    hot         local order has not formed: more than 22 % of the bonds are walls, or most sites have no difference
    coarsening  local order has formed, in domains that walls bound
    ordered     local order has formed and less than 5 % of the bonds are walls: domains are some ten sites wide or more

Without any order 37 % of the bonds are walls.  At the published parameters it is 36, 25, 22, 15, 13 and 12 % at the steps 0,
100, 200, 400, 800 and 2,000 (quenches of 40x40 sites by two force fields), where the lattice is cold and the walls are pinned:
such a quench ends in a mosaic of domains, which is not ordered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.interfaces import Lattice
from hpc_holstein.output.observables import RESOLUTION
from hpc_holstein.output.order import Order, difference, lattice_order, wall_density
from hpc_holstein.training.dataset import Snapshots

BY_STATE = ("hot", "coarsening", "ordered")
"""Names of the regimes that follow from the states."""

Masks = dict[str, NDArray[np.bool_]]
Steps = Mapping[str, tuple[int, int | None]]
"""Steps ``[first, end)`` of each regime by its name; an end of None is that of the quench."""

_HOT, _ORDERED = 0.22, 0.05  # part of the bonds that are walls
_FORMED = 0.5  # part of the sites that have half of the rms difference, at least: uniform regions have none


@dataclass(frozen=True)
class Regimes:
    """Assignment of snapshots on ``lattice`` to regimes: by the ``steps`` of each, or, if these are None, by the state."""

    lattice: Lattice
    steps: Steps | None = None

    def masks(self, snapshots: Snapshots) -> Masks:
        """Masks ``[snapshot]`` of ``all``, ``random`` and each regime, of those that have at least one snapshot."""
        random = snapshots.quench == -1
        found = {"all": np.ones(len(snapshots), dtype=bool), "random": random}
        if self.steps is None:
            names = np.array(["" if drawn else self.of(q) for q, drawn in zip(snapshots.fields(), random, strict=True)])
            found |= {name: names == name for name in BY_STATE}
        else:
            for name, (first, end) in self.steps.items():
                within = (snapshots.step >= first) & (snapshots.step < (np.inf if end is None else end))
                found[name] = within & ~random
        return {name: mask for name, mask in found.items() if mask.any()}

    def of(self, q: torch.Tensor) -> str:
        """The regime of a state ``[*extent, basis, components]``; none, an empty name, on a lattice without an order."""
        found = lattice_order(self.lattice)
        if found is None:
            return ""
        domain, order = CartesianDomain(self.lattice, SerialTransport()), Order(*found, field="q")
        compared = difference(q.double(), order, domain)
        strength = compared.abs().square().sum(dim=-1).sqrt()
        rms = float(strength.square().mean().sqrt())
        formed = rms > RESOLUTION and float((strength > 0.5 * rms).double().mean()) >= _FORMED
        walls = float(wall_density(compared, order, domain)) if formed else math.inf
        return BY_STATE[0] if walls > _HOT else BY_STATE[2] if walls < _ORDERED else BY_STATE[1]

    @property
    def definition(self) -> str:
        """Definition of the regimes, for records: ``by state``, or steps such as ``hot=0:200,late=200:``."""
        if self.steps is None:
            return "by state"
        return ",".join(f"{name}={first}:{'' if end is None else end}" for name, (first, end) in self.steps.items())
