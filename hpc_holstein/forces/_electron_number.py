"""Cost of a wrong electron number of a network in a canonical run.

A network whose ``mean n`` is off by ``e`` at the right chemical potential finds the ``mu`` of a filling that is off by ``e``,
so ``mu`` is known up to half of

    mu(filling + e) - mu(filling - e)  ~  2 e / mean s,     s_i = dn_i/dmu,

and the force up to half of what it changes in between.  Both are computed, since in a gap ``mean s`` vanishes and the quotient
means nothing.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import State

_LEAST = 1e-9  # filling from which there are electrons, and holes, to place


def potential_uncertainty(forces: NeuralForces, state: State, electrons: float) -> tuple[float, float]:
    """Error of ``mu`` [t_nn] and rms error of the force [t_nn/a] that go with one of ``electrons`` a site; collective."""
    results = []
    for sign in (1, -1):
        filling = min(max(forces.ensemble.filling + sign * electrons, _LEAST), 1 - _LEAST)
        other = copy.copy(forces)
        other.ensemble = replace(forces.ensemble, filling=filling)
        results.append(other(state.moved(forces=None)))
    more, less = results
    moved = 0.5 * (more.force - less.force).double()
    squares = float(global_sum(moved.square().sum(dim=-1).unsqueeze(0), forces.domain)[0])
    shift = 0.5 * abs(float(more.chemical_potential) - float(less.chemical_potential))
    return shift, math.sqrt(squares / forces.domain.lattice.sites)
