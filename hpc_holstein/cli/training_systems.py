"""Files of a training by the systems that they belong to, and what the card of the model says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from hpc_holstein.config import Config
from hpc_holstein.config.builders import stated_physics
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.fields import SiteAxes
from hpc_holstein.interfaces import System
from hpc_holstein.network.elements import element_ranges, strength
from hpc_holstein.network.field_range import field_range
from hpc_holstein.network.surroundings import surroundings_of
from hpc_holstein.network.surroundings import together as surroundings_together
from hpc_holstein.training import dataset
from hpc_holstein.training._fields import chemical_potential
from hpc_holstein.training._judged import LabelledSystem, training_data
from hpc_holstein.training.dataset import Snapshots

Facts = dict[str, Any]

_FILLING_DIGITS = 6  # labels are kept to far more


@dataclass(frozen=True)
class Labelled:
    """Files of one system, and their snapshots together."""

    paths: Sequence[Path]
    snapshots: Snapshots
    system: System


def reads_matrix(config: Config) -> bool:
    """True if the architecture of ``[model]`` reads the matrix elements of ``H``."""
    return bool(getattr(config.model.made_of, "in_hopping", False))


def groups_of(paths: Sequence[Path], axes: SiteAxes) -> list[list[Path]]:
    """Files of one Hamiltonian and extent, those of the first file first; one that does not say its Hamiltonian is of that.

    ``g`` and ``kT`` may differ within a group.
    """
    groups: dict[Any, list[Path]] = {}
    first: Any = None
    for path in paths:
        part = dataset.read(path, axes=axes)
        said = stated_physics(part.attributes).joined(stated_physics(part.label_attributes))
        own = tuple(sorted((name, value) for name, value in said.parameters.items() if name != "g"))
        key = part.extent, said.values.get("hamiltonian"), own
        first = first or key
        groups.setdefault((part.extent, *first[1:]) if key[1] is None else key, []).append(path)
    return list(groups.values())


def training_facts(one: LabelledSystem, sets: Mapping[str, Any], model: torch.nn.Module) -> Facts:
    """``seen``, ``surroundings`` and ``ranges`` for the card of ``model`` from one system."""
    lattice, hamiltonian = one.hamiltonian.lattice, one.hamiltonian
    whole, of_matrix = CartesianDomain(lattice, SerialTransport()), model.field == "matrix"
    chosen = {name: one.snapshots.select(sets[name]) for name in ("training", "validation")}
    inputs = {
        name: training_data(snapshots, model, hamiltonian, torch.float64, torch.device("cpu")).inputs
        for name, snapshots in chosen.items()
    }
    ranges = _ranges(one.snapshots, hamiltonian.orbitals)
    if of_matrix:
        elements = cast(Any, model).elements
        mu = chemical_potential(chosen["training"]) / hamiltonian.hopping
        found = element_ranges(inputs["training"], mu, elements)
        low, high = ranges.get("kT", (one.ensemble.kT, one.ensemble.kT))
        found["kT/t"] = low / hamiltonian.hopping, high / hamiltonian.hopping
        ranges = found | {name: of for name, of in ranges.items() if name == "filling"}
        fields = {name: strength(values, elements) for name, values in inputs.items()}
    else:
        shape = *lattice.extent, len(lattice.basis)
        fields = {name: values.reshape(len(values), *shape) for name, values in inputs.items()}
    coupling = 1.0 if of_matrix else hamiltonian.parameters["g"]
    return {
        "seen": field_range(fields["training"], whole),
        "surroundings": surroundings_of(fields["training"], fields["validation"], coupling, whole),
        "ranges": ranges,
    }


def ranges_of_systems(systems: Sequence[LabelledSystem], facts: Sequence[Facts]) -> list[dict[str, list[float]]]:
    """Ranges for the card of each system, those of one Hamiltonian with the same parameters together, whatever its extents."""
    alike: dict[Any, list[Facts]] = {}
    for one, of in zip(systems, facts, strict=True):
        alike.setdefault((one.hamiltonian.name, *one.hamiltonian.parameters.items()), []).append(of)
    return [{name: list(of) for name, of in _together(some).items()} for some in alike.values()]


def _together(facts: Sequence[Facts]) -> dict[str, tuple[float, float]]:
    """The widest ranges."""
    names = dict.fromkeys(name for one in facts for name in one["ranges"])
    return {name: _widest([one["ranges"][name] for one in facts if name in one["ranges"]]) for name in names}


def together(facts: Sequence[Facts]) -> Facts:
    """Facts of several systems as those of one: the widest ranges, all surroundings."""
    seen = [one["seen"] for one in facts]
    ranges = _together(facts)
    if "kT/t" in ranges and math.isclose(*ranges["kT/t"]):  # one, which is that of the options
        del ranges["kT/t"]
    return {
        "seen": {name: (min if name.endswith(".min") else max)(one[name] for one in seen) for name in seen[0]},
        "surroundings": surroundings_together([one["surroundings"] for one in facts]),
        "ranges": ranges,
    }


def _widest(ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _ranges(snapshots: Snapshots, orbitals: int) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of the parameters, and of the filling, that the data has several of."""
    values = {name: getattr(snapshots, name) for name in dataset.SETTING}
    said = stated_physics(snapshots.attributes).joined(stated_physics(snapshots.label_attributes)).values
    if snapshots.density is not None and said.get("ensemble") == "canonical":
        electrons = snapshots.density.reshape(len(snapshots), -1).mean(axis=1)
        values["filling"] = (electrons / orbitals).round(_FILLING_DIGITS)
    return {
        name: (float(array.min()), float(array.max()))
        for name, array in values.items()
        if array is not None and array.min() < array.max()
    }
