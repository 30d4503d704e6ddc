"""Uncertainty of the force of networks: disagreement of several, and the cost of a wrong electron number of one.

A committee disagrees by

    deviation_i = [ (1/M) sum_m |F_i^m - F_i|^2 ]^(1/2),   F_i = (1/M) sum_m F_i^m        [t_nn/a]

over the main network, which drives the dynamics, and the members, ``M`` networks in all, each evaluated once at the chemical
potential of the main one.  Members only judge: no bit of the trajectory depends on them.
Source: query by committee, Seung, Opper and Sompolinsky, doi:10.1145/130385.130417.

A network whose ``mean n`` is off by ``e`` at the right chemical potential finds, in a canonical run, the ``mu`` of a filling
that is off by ``e``, so ``mu`` is known up to half of ``mu(filling + e) - mu(filling - e)``, and the force up to half of what
that changes.  Both are computed: in a gap the slope vanishes, and a quotient by it means nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.interfaces import State

_LEAST = 1e-9  # filling from which there are electrons, and holes, to place


class Committee:
    """``main`` and the ``members``, force providers of the same system on the same domain."""

    def __init__(self, main: Any, members: Sequence[Any]) -> None:
        self._all = [main, *members]

    def __len__(self) -> int:
        """Networks in all, the main one included."""
        return len(self._all)

    @torch.no_grad()
    def deviation(self, state: State) -> Tensor:
        """Standard deviation of the force on each site, ``[*cells, basis]``, of a state with forces; collective.

        Sums are over differences to the main force, so that networks that agree deviate by exactly 0.
        """
        assert state.forces is not None
        mu, asked = float(state.forces.chemical_potential), state.moved(forces=None)
        first = _at(self._all[0], mu)(asked).force
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for member in self._all[1:]:
            difference = _at(member, mu)(asked).force - first
            total += difference
            squares += difference.square()
        variance = squares / len(self) - (total / len(self)).square()
        return variance.clamp_min(0).sum(dim=-1).sqrt()


def potential_uncertainty(forces: Any, state: State, electrons: float) -> tuple[float, float]:
    """Error of ``mu`` [t_nn] and rms error of the force [t_nn/a] that go with one of ``electrons`` a site; collective."""
    filling, electrons = forces.ensemble.filling, electrons / forces.hamiltonian.orbitals
    more, less = (
        _in_ensemble(forces, filling=min(max(filling + e, _LEAST), 1 - _LEAST))(state.moved(forces=None))
        for e in (electrons, -electrons)
    )
    moved = 0.5 * (more.force - less.force).double()
    squares = float(global_sum(moved.square().sum(dim=-1).unsqueeze(0), forces.domain)[0])
    shift = 0.5 * abs(float(more.chemical_potential) - float(less.chemical_potential))
    return shift, math.sqrt(squares / forces.hamiltonian.lattice.sites)


def _at(provider: Any, chemical_potential: float) -> Any:
    """``provider`` at a fixed chemical potential: one evaluation.  NaN: the main network knows none, and each finds its own."""
    if math.isnan(chemical_potential):
        return provider
    return _in_ensemble(provider, kind="grand-canonical", chemical_potential=chemical_potential)


def _in_ensemble(provider: Any, **changes: Any) -> Any:
    """``provider`` in another ensemble."""
    other = copy.copy(provider)
    other.ensemble = replace(provider.ensemble, **changes)
    return other
