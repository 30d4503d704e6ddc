"""The systems that a model serves, by its card: which are refused, and which differ from those that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpc_holstein.errors import ModelError
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice
from hpc_holstein.network.elements import SHELL, Elements, fixed_parts
from hpc_holstein.symmetry.internal import has_particle_hole

if TYPE_CHECKING:
    from hpc_holstein.network.checkpoint import Card

_FREE = frozenset({"t", "g", "k", "kappa", "filling"})  # of a network of the electrons alone, at one kT/t
_UNMEASURED = "its errors were not measured here, check them with `hpc-holstein validate`"
_SAME = 1e-9  # relative difference of two parameters that count as equal


def check_card(card: Card, hamiltonian: Hamiltonian, ensemble: Ensemble, lattice: Lattice) -> None:
    """Raise :class:`ModelError`, naming every difference, when the model was made for another system.

    The density as a function of the shifted field depends on the electrons alone: the classical ``k`` and ``kappa`` and the
    filling do not enter, and any ``g`` is served, as is any common scale of the energies (:mod:`hpc_holstein.network.scaling`):
    ``kT/t`` decides, and the sign of ``t`` where hopping joins sites of one sublattice.  ``kT`` may have any value in its
    range on the card.
    """
    here: dict[str, Any] = {"hamiltonian": hamiltonian.name, "lattice": lattice.name, "kT": ensemble.kT}
    model: dict[str, Any] = {"hamiltonian": card.hamiltonian, "lattice": card.lattice, "kT": card.kT}
    ranges: dict[str, tuple[float, ...]] = dict(card.ranges)
    if card.of_matrix:
        _require_elements(card, hamiltonian, lattice, ensemble.kT / hamiltonian.hopping)
        here = {"lattice": lattice.name, "kT/t": ensemble.kT / hamiltonian.hopping}
        model = {"lattice": card.lattice, "kT/t": card.options.get("kT")}
    elif card.of_electrons:
        here |= {name: value for name, value in hamiltonian.parameters.items() if name not in _FREE}
        model |= {name: value for name, value in card.parameters.items() if name not in _FREE}
        t, t_0 = abs(hamiltonian.parameters.get("t", 0.0)), abs(card.parameters["t"])
        if not _same(t, t_0):
            here["kT/t"], model["kT/t"] = _over(here.pop("kT"), t), _over(model.pop("kT"), t_0)
            ranges = {"kT/t": tuple(_over(kT, t_0) for kT in card.ranges["kT"])} if "kT" in card.ranges else {}
        if "t" in hamiltonian.parameters and not has_particle_hole(hamiltonian):  # else a choice of phases
            here["sign of t"], model["sign of t"] = (_sign(of["t"]) for of in (hamiltonian.parameters, card.parameters))
    else:
        here |= {"ensemble": ensemble.kind, "filling": ensemble.filling, **hamiltonian.parameters}
        model |= {"ensemble": card.ensemble, "filling": card.filling, **card.parameters}
    every = dict.fromkeys([*here, *model])
    names = [name for name in every if not _fits(ranges.get(name), here.get(name), model.get(name))]
    if names:
        model |= {name: f"{low:g} to {high:g}" for name, (low, high) in ranges.items()}
        told = ", ".join(f"{name} is {model.get(name)} in the model and {here.get(name)} in this run" for name in names)
        raise ModelError(
            f"the model is made for another system: {told}; give this run the values of the model, "
            "or train a model for it with 'hpc-holstein train'"
        )


def _require_elements(card: Card, hamiltonian: Hamiltonian, lattice: Lattice, kT: float) -> None:
    """Raise ModelError if elements of ``H`` move that were fixed in training, or are fixed at values beyond those of it.

    Of a training with several systems, all elements must be those of one of them, and so must ``kT/t``: two kinds of elements
    of which each moved alone tell nothing of both at once.
    """
    shells, orbitals = sum(name.startswith(SHELL) for name in card.ranges), card.options.get("orbitals", "s")
    if orbitals != hamiltonian.orbital_kind:
        raise ModelError(
            f"the network is one of {orbitals} orbitals, and those of the {hamiltonian.name} Hamiltonian are "
            f"{hamiltonian.orbital_kind}: train one for it, or use force kind 'exact' or 'kpm'"
        )
    parts = fixed_parts(hamiltonian, Elements.of(lattice, max(1, shells), orbitals))
    told = min((_unknown_elements(ranges, parts, kT) for ranges in card.known), key=len)
    if told:
        raise ModelError(
            f"the network knows other matrix elements than those of the {hamiltonian.name} Hamiltonian: {', '.join(told)}; "
            "train a model with states of this Hamiltonian, or use force kind 'exact' or 'kpm'"
        )


def _unknown_elements(
    ranges: Mapping[str, tuple[float, float]], parts: Mapping[str, tuple[float, float] | None], kT: float
) -> list[str]:
    """Differences from a system of these ranges, each in words."""
    told = []
    if "kT/t" in ranges and not _fits(ranges["kT/t"], kT, None):
        there = " to ".join(f"{one:.6g}" for one in dict.fromkeys(ranges["kT/t"]))
        told.append(f"kT/t is {kT:.6g} here and was {there} with such elements")
    for name, value in parts.items():
        if name not in ranges:
            told.append(f"the card does not record {name}")
            continue
        low, high = ranges[name]
        if value is None and not high - low > _SAME:
            told.append(f"{name} moves with the coordinates here and was {low:.6g} in training")
        elif value is not None and not (low - _SAME <= value[0] and value[1] <= high + _SAME):
            here = " to ".join(f"{one:.6g}" for one in dict.fromkeys(value))
            told.append(f"{name} is {here} here and was {low:.6g} to {high:.6g} in training")
    return told


def trained_elsewhere(card: Card, hamiltonian: Hamiltonian, ensemble: Ensemble) -> str:
    """Differences of a system that passes :func:`check_card` from the training data, so that its states may be others.

    One sentence, empty where there is nothing.  The classical parameters and the filling do not enter the map that the network
    has learned, but its errors were measured on the states that they make.
    """
    known = {one["hamiltonian"]: one for one in reversed(card.systems)}
    if hamiltonian.name not in known:
        return f"the network was trained with states of the {' and '.join(card.hamiltonians)} Hamiltonian alone; {_UNMEASURED}"
    there, filling = known[hamiltonian.name]["parameters"], known[hamiltonian.name]["filling"]
    # a scale in t and g is told where it is applied
    classical = hamiltonian.parameters.keys() - (set() if card.of_matrix else {"t", "g"})
    differ = [
        f"{name} is {hamiltonian.parameters[name]:g} and was {value:g}"
        for name, value in there.items()
        if name in classical and not _same(hamiltonian.parameters[name], value)
    ]
    half = card.ensemble == "canonical" and filling == 0.5 and has_particle_hole(hamiltonian)
    if ensemble.kind == "canonical" and not _fits(card.ranges.get("filling"), ensemble.filling, filling):
        differ.append(f"filling is {ensemble.filling:g} and was {filling:g}")
    if ensemble.kind == "grand-canonical" and card.ensemble == "canonical" and not (half and ensemble.chemical_potential == 0):
        differ.append(f"chemical_potential is {ensemble.chemical_potential:g} and the filling was {filling:g}")
    if not differ:
        return ""
    return f"the network was trained elsewhere: {', '.join(differ)} in training; {_UNMEASURED}"


def had_coupling(card: Card, hamiltonian: Hamiltonian) -> bool:
    """True if the training had the ``g/t`` of a Hamiltonian, or there is no ``g``: other couplings make other states."""
    if "g" not in hamiltonian.parameters or "g" not in card.parameters:
        return True
    interval = card.ranges.get("g", (card.parameters["g"],) * 2)
    unit = abs(card.parameters.get("t", 1.0)) or 1.0
    return _fits(tuple(g / unit for g in interval), abs(hamiltonian.parameters["g"]) / hamiltonian.hopping, None)


def valid_for(card: Card) -> str:
    """The systems that :func:`check_card` accepts, in words."""
    if card.of_matrix:
        systems = [ranges if "kT/t" in ranges else {**ranges, "kT/t": (card.options["kT"],) * 2} for ranges in card.known]
        every = "; or with ".join(dict.fromkeys(", ".join(_in_ranges(ranges)) for ranges in systems))
        return f"any Hamiltonian of this lattice with {every}, at any filling and with any classical potential"
    told = _in_ranges(card.ranges if not card.of_electrons else {k: v for k, v in card.ranges.items() if k not in _FREE})
    if not card.of_electrons:
        return ", ".join(told) or "these values"
    kT = told[0] if told else f"kT = {card.kT:g}"
    return f"any g, k, kappa and filling at t = {card.parameters['t']:g}, {kT}, and any common scale of t, g and kT"


def _in_ranges(ranges: Mapping[str, tuple[float, float]]) -> list[str]:
    """Each range in words, but those of the filling."""
    return [
        f"{name} = {low:g}" if low == high else f"{name} from {low:g} to {high:g}"
        for name, (low, high) in ranges.items()
        if name != "filling"
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME)
    return bool(a == b)


def _sign(energy: float) -> str:
    return "-" if energy < 0 else "+"


def _over(energy: float, unit: float) -> float:
    return energy / unit if unit else math.inf


def _fits(interval: tuple[float, ...] | None, here: Any, model: Any) -> bool:
    """True if the value of a run is that of the model, or in its range."""
    if interval is None:
        return _same(here, model)
    low, high = interval
    return here is not None and bool(low - _SAME <= here <= high + _SAME)
