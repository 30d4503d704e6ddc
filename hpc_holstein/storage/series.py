"""The scalars that a trajectory holds at the cadence of the observables: name, unit and meaning of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hpc_holstein.errors import DataError


class Series(NamedTuple):
    """Unit and meaning of a scalar observable."""

    unit: str
    meaning: str


SERIES = {
    "order_parameter": Series("1", "CDW order parameter |mean phi| of the density"),
    "order_parameter_q": Series("a", "CDW order parameter |mean phi| of the lattice coordinate"),
    "domain_length_first_zero": Series("a", "CDW domain length: first zero of C(r)"),
    "domain_length_half_height": Series("a", "CDW domain length: half height of C(r)"),
    "domain_length_inverse_moment": Series("a", "CDW domain length: 1 / first moment of S(|q - K|)"),
    "domain_wall_density": Series("1", "part of the nearest-neighbour bonds across which phi changes sign"),
    "kinetic_temperature": Series("t_nn", "kinetic temperature m <v^2>"),
    "kinetic_energy": Series("t_nn/site", "kinetic energy"),
    "classical_energy": Series("t_nn/site", "classical potential V(q)"),
    "electronic_energy": Series("t_nn/site", "electronic free energy (NaN where the force provider does not know it)"),
    "total_energy": Series("t_nn/site", "sum of the three energies (NaN where one is not known)"),
    "electron_number": Series("electrons/site", "mean electron density"),
    "mu": Series("t_nn", "chemical potential at the cadence of the observables"),
}
"""Name -> unit and meaning of every scalar that a run records."""

TRUST = {
    "committee_rms": Series("t_nn/a", "rms over the sites of the standard deviation of the force over a committee"),
    "committee_max": Series("t_nn/a", "largest standard deviation of the force on a site over a committee"),
    "outside_fraction": Series("1", "part of the sites whose field is outside of the range that the network was trained on"),
    "unfamiliar_fraction": Series("1", "part of the sites in surroundings that the network was not trained on"),
}
"""Name -> unit and meaning of the scalars of a run whose network is judged; NaN in the rows at which it is not."""

TIMINGS = {
    "force": "forces, without communication",
    "communication": "halo exchanges and sums over ranks, waiting included",
    "output": "observables, trajectory and checkpoints, without communication",
    "other": "integration, noise and bookkeeping",
}
"""Name -> meaning of the seconds of rank 0 since the row before, which add up to the time that passed."""

OWN = "series"
"""Attribute of a file whose run has further kinds of observables: JSON, name -> unit and meaning of their scalars."""

_OF_ORDERS = (
    "order_parameter_q",
    "order_parameter",
    "domain_length_first_zero",
    "domain_length_half_height",
    "domain_length_inverse_moment",
    "domain_wall_density",
)


def described(name: str) -> Series | None:
    """Unit and meaning of a series: also of those of an order that has a name of its own, as in ``order_parameter_stripe``."""
    if name in SERIES or name in TRUST:
        return SERIES.get(name) or TRUST[name]
    base = next((base for base in _OF_ORDERS if name.startswith(f"{base}_")), None)
    if base is None:
        return None
    return Series(SERIES[base].unit, f"{SERIES[base].meaning}, of the order '{name[len(base) + 1 :]}'")


def own_series(attributes: Mapping[str, Any]) -> dict[str, Series]:
    """Those of :data:`OWN` of a file."""
    try:
        return {name: Series(*map(str, told)) for name, told in json.loads(attributes.get(OWN, "{}")).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"the attribute {OWN} says nothing of series: use another copy of the file") from None


def series_of(names: Iterable[str], own: Mapping[str, Series]) -> dict[str, Series]:
    """:data:`SERIES`, and those among ``names`` that a run need not have: of :data:`TRUST`, named orders, and its ``own``."""
    there = set(names) - SERIES.keys()
    further = {name: own.get(name) or described(name) for name in sorted(there - TRUST.keys())}
    known = {name: series for name, series in further.items() if series is not None}
    return {**SERIES, **{name: TRUST[name] for name in TRUST if name in there}, **known}
