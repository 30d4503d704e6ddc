"""The cheaper of ``exact`` and ``kpm`` at the size of the lattice and the accuracy that is asked for.

    exact where sites <= N(tolerance) or kT = 0, else kpm;    ln N is linear in ln(tolerance) through CROSSINGS

The cost of ``exact`` grows as ``N^3`` and that of ``kpm`` as ``N``; where they cross was measured on one core, see
``benchmarks/force_cost.py``, as the geometric mean of hot and ordered states.  The choice does not depend on the ranks or on
the state, so that neither do results.  ``local`` is never chosen: it often costs less, but promises nothing, as single
resonant sites err a hundred times more than the rest and a check of some sites misses them; choose it by name where a
typical error is enough, and judge it by ``hpc-holstein validate``.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, cast

from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import exact, kpm
from hpc_holstein.interfaces import Domain, Ensemble, ForceResult, Hamiltonian, State
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._exact import ExactForces
    from hpc_holstein.forces._kpm import KPMForces

CROSSINGS = ((1e-6, 990.0), (1e-3, 760.0))
"""``(tolerance, sites)`` from which on ``kpm`` in float64 is the cheaper: benchmarks/records/force_cost-2-cores.json."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What accuracy."""

    tolerance: Annotated[
        float,
        key("largest error of the force [t_nn/a], as for kpm; in float32 it is at least 1e-4", "tol", "accuracy", "error"),
    ] = 1e-6


class AutoForces:
    """The chosen provider, which ``kind`` names and ``reason`` explains; implements :class:`interfaces.ForceProvider`.

    ``info`` is that of the chosen one, with ``auto_exact``, 1 for ``exact`` and 0 for ``kpm``, and ``auto_crossing`` [sites].
    """

    reach = None

    def __init__(self, options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
        if not 0 < options.tolerance < 1:
            raise ConfigError(
                f"tolerance = {options.tolerance} is not a force error: give a number between 0 and 1, such as 1e-6"
            )
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, domain, ensemble
        self._crossing = crossing(options.tolerance)
        self.kind, self.reason = choose(domain.lattice.sites, options.tolerance, ensemble.kT)
        self._chosen: ExactForces | KPMForces
        if self.kind == "exact":
            self._chosen = exact.build(exact.Options(), hamiltonian, domain, ensemble)
        else:
            self._chosen = kpm.build(kpm.Options(tolerance=options.tolerance), hamiltonian, domain, ensemble)
        self.tolerance: float | None = self._chosen.tolerance
        if self.kind == "exact":  # densities at further chemical potentials, which kpm does not give
            self.with_densities = cast("ExactForces", self._chosen).with_densities
        _LOG.info(self.reason)

    def __call__(self, state: State) -> ForceResult:
        """Forces of the chosen provider; collective over the ranks of the domain."""
        result = self._chosen(state)
        choice = {"auto_exact": float(self.kind == "exact"), "auto_crossing": self._crossing}
        return replace(result, info={**result.info, **choice})


def crossing(tolerance: float) -> float:
    """Sites up to which ``exact`` is the cheaper one, ``N(tolerance)``; beyond the measured tolerances, that of the last."""
    import numpy as np  # here: a configuration is checked without it

    tolerances, sites = np.log(np.array(CROSSINGS)).T
    return math.exp(float(np.interp(math.log(tolerance), tolerances, sites)))


def choose(sites: int, tolerance: float, kT: float) -> tuple[str, str]:
    """Kind, and the reason in words: ``auto: kpm, 10,000 sites > 990 (...)``."""
    if kT == 0:
        return "exact", "auto: exact, kT = 0"
    most = crossing(tolerance)
    kind, sign = ("exact", "<=") if sites <= most else ("kpm", ">")
    return kind, f"auto: {kind}, {sites:,} sites {sign} {most:,.0f} (where kpm becomes cheaper at tolerance {tolerance:g})"


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> AutoForces:
    """The cheaper one of ``exact`` and ``kpm``; raises what the chosen one raises, and ConfigError for the tolerance."""
    return AutoForces(options, hamiltonian, domain, ensemble)
