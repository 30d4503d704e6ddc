"""The cheaper of ``exact`` and ``kpm`` at the size of the lattice: ``exact`` up to 1,000 sites or for kT = 0, else ``kpm``.

The cost of ``exact`` grows as ``N^3`` and that of ``kpm`` as ``N``; they cross between 760 sites (tolerance 1e-3) and 990
(1e-6), see ``benchmarks/force_cost.py``.  The choice depends neither on the ranks nor on the state, so that neither do results.
``local`` is never chosen: it often costs less, but promises nothing, as single resonant sites err a hundred times more than
the rest and a check of some sites misses them; choose it by name where a typical error is enough, and judge it by
``hpc-holstein validate``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from hpc_holstein.errors import ConfigError
from hpc_holstein.forces import exact, kpm
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._exact import ExactForces
    from hpc_holstein.forces._kpm import KPMForces

MOST_SITES = 1000
"""Sites up to which ``exact`` is the cheaper one."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Accuracy that is asked for."""

    tolerance: Annotated[
        float,
        key("largest error of the force [t_nn/a], as for kpm; in float32 it is at least 1e-4", "tol", "accuracy", "error"),
    ] = 1e-6


def choose(sites: int, kT: float) -> tuple[str, str]:
    """Kind, and the reason in words: ``auto: kpm, 10,000 sites > 1,000``."""
    if kT == 0:
        return "exact", "auto: exact, kT = 0"
    kind, sign = ("exact", "<=") if sites <= MOST_SITES else ("kpm", ">")
    return kind, f"auto: {kind}, {sites:,} sites {sign} {MOST_SITES:,}"


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> ExactForces | KPMForces:
    """The cheaper one of ``exact`` and ``kpm``; raises what the chosen one raises, and ConfigError for the tolerance."""
    if not 0 < options.tolerance < 1:
        raise ConfigError(f"tolerance = {options.tolerance} is not a force error: give a number between 0 and 1, such as 1e-6")
    kind, reason = choose(domain.lattice.sites, ensemble.kT)
    _LOG.info(reason)
    if kind == "exact":
        return exact.build(exact.Options(), hamiltonian, domain, ensemble)
    return kpm.build(kpm.Options(tolerance=options.tolerance), hamiltonian, domain, ensemble)
