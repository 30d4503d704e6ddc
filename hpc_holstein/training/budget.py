"""Budget of the error of a force, each part measured as the difference of two computed forces.

Between the judged force and the reference stand providers that each remove one cause of error: for a network

    F_net(mu_net) - F_ref = [F_net(mu_net) - F_net(mu_ref)]          chemical potential
                          + [F_net(mu_ref) - F_local(R, mu_ref)]     network
                          + [F_local(R, mu_ref) - F_ref]             reach R: the floor of every force field that sees R cells

so the parts add up to the error, site by site, with their signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.domain.transport import Transport
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Lattice, State
from hpc_holstein.training.label import LabelWork, evaluate
from hpc_holstein.training.paths import MakeForces, Progress
from hpc_holstein.training.validation import Comparison

MakeInEnsemble = Callable[[Ensemble], MakeForces]


@dataclass(frozen=True)
class IntermediateForces:
    """A provider between the judged force and the reference.

    part                what it lacks that the one before it has
    make                builds it in a given ensemble
    chemical_potential  ``[snapshot]``, ``t_nn``, at which it is evaluated
    """

    part: str
    make: MakeInEnsemble
    chemical_potential: NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """One cause of error: root mean square and largest value, ``t_nn / a``, at the ``values`` that all rungs compute."""

    name: str
    rms: float
    max: float
    values: int


def error_budget(
    found: Comparison,
    rungs: Sequence[IntermediateForces],
    rest: str,
    kT: float,
    lattice: Lattice,
    transport: Transport,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Part]:
    """The parts of the error of a comparison in the order of ``rungs``, what is left as ``rest``, and the ``total``."""
    judged, reference = found.predicted.snapshots.force, found.reference.snapshots.force
    assert judged is not None
    assert reference is not None
    forces = [judged]
    forces += [rung_force(found, rung, kT, lattice, transport, device, progress) for rung in rungs]
    forces.append(reference)
    kept = np.logical_and.reduce([np.isfinite(force) for force in forces])
    names = [*(rung.part for rung in rungs), rest]
    parts = [_part(name, a[kept] - b[kept]) for name, a, b in zip(names, forces, forces[1:], strict=False)]
    return [*parts, _part("total", judged[kept] - reference[kept])]


def rung_force(
    found: Comparison,
    rung: IntermediateForces,
    kT: float,
    lattice: Lattice,
    transport: Transport,
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.floating]:
    """Force of a rung on the states of a comparison."""
    work = LabelWork.of(found.predicted.snapshots, lattice, transport, partial(_AtPotential, rung.make, kT), device)
    made = evaluate(found.predicted.snapshots, work, progress, f"budget: {rung.part}", rung.chemical_potential)
    assert made.snapshots.force is not None
    return made.snapshots.force


def budget_table(parts: Sequence[Part]) -> str:
    """The parts as a table for a terminal, one a line."""
    width = max(len(part.name) for part in parts) + 2
    lines = [f"{'part of the error':<{max(width, 19)}}{'rms [t/a]':>11}{'max [t/a]':>11}{'MSE [(t/a)^2]':>15}"]
    lines += [f"{part.name:<{max(width, 19)}}{part.rms:>11.2e}{part.max:>11.2e}{part.rms**2:>15.2e}" for part in parts]
    return "\n".join(lines)


def _part(name: str, difference: NDArray[np.floating]) -> Part:
    return Part(name, float(np.sqrt(np.mean(difference**2))), float(np.abs(difference).max()), int(difference.size))


class _AtPotential(ForceProvider):
    """A provider that is built anew at the chemical potential of each state, which ``state.forces`` tells."""

    def __init__(self, make: MakeInEnsemble, kT: float, domain: Domain) -> None:
        self._make, self._kT, self._domain = make, kT, domain
        first = self._at(0.0)  # raises here where the tiles do not fit it
        self.reach, self.tolerance = first.reach, first.tolerance

    def __call__(self, state: State) -> ForceResult:
        assert state.forces is not None
        return self._at(float(state.forces.chemical_potential))(State.at_rest(state.q))

    def _at(self, chemical_potential: float) -> ForceProvider:
        ensemble = Ensemble("grand-canonical", self._kT, chemical_potential=chemical_potential)
        return self._make(ensemble)(self._domain)
