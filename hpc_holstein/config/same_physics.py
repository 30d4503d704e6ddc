"""Comparison of the system of a file of states or labels with that of a configuration, one for all readers of such a file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_holstein.config import kinds
from hpc_holstein.config.builders import stated_physics
from hpc_holstein.config.loading import parsed_section
from hpc_holstein.config.sections import EnsembleSection
from hpc_holstein.errors import ConfigError, DataError, HolsteinError
from hpc_holstein.interfaces import System
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.physics import Differences, Physics, in_words


def physics_of(snapshots: Snapshots, source: Path | str) -> Physics:
    """Physics that a file states of its snapshots and of its labels.

    Raises DataError where the two disagree: which of them a number belongs to cannot be told.
    """
    states, labels = (stated_physics(attributes) for attributes in (snapshots.attributes, snapshots.label_attributes))
    odd = states.differences(labels)
    if odd:
        told = ", ".join(f"{key} is {here!r} on the file and {there!r} on its labels" for key, (here, there) in odd.items())
        raise DataError(f"{source} contradicts itself: {told}; correct its attributes, or label its states anew")
    return states.joined(labels)


def require_fit(
    snapshots: Snapshots,
    source: Path,
    system: System,
    usable: Callable[[System], object] | None = None,
    free: Collection[str] = (),
) -> None:
    """Raise ConfigError, naming every difference and the remedy, where snapshots do not belong to ``system``.

    What a file does not say is not compared, nor are the attributes ``free``.  ``usable(system)`` raises where the command
    could not work with the physics of the file either, so that nothing is recommended that does not help.  DataError for
    another number of coordinates on a site, or a file that contradicts itself.
    """
    theirs = physics_of(snapshots, source).without(*free)
    ours = Physics.of(system.lattice, system.hamiltonian, system.ensemble)
    odd = theirs.differences(ours)
    if odd:
        raise ConfigError(f"{source} belongs to another system: {in_words(odd)}; {_remedy(theirs, odd, system, usable)}")
    given, wanted = snapshots.components, system.hamiltonian.components
    if given != wanted:
        names = ", ".join(("snapshot", *snapshots.axes.names(), *([str(wanted)] if wanted > 1 else [])))
        raise DataError(
            f"q of {source} has {given} components on each site and the {system.hamiltonian.name} Hamiltonian on the "
            f"{system.lattice.name} lattice has {wanted}: store [{names}], or give the lattice.kind of these states"
        )


def another_system(attributes: Mapping[str, Any], source: Path, system: System) -> list[str]:
    """A sentence where the states of a run are read under another physics than its own, which only the user can ask for."""
    odd = stated_physics(attributes).differences(Physics.of(system.lattice, system.hamiltonian, system.ensemble))
    return [f"the states of {source} are read as those of another system: {in_words(odd)}"] if odd else []


def _remedy(theirs: Physics, odd: Differences, system: System, usable: Callable[[System], object] | None) -> str:
    """A remedy: how to give this command the values of the file, or why that would not help."""
    keys = {key: theirs.keys[key] for key in odd}
    if "ensemble.kind" in keys:
        keys |= {key: value for key, value in theirs.keys.items() if key.startswith("ensemble.")}
    try:
        meant = system_of(theirs, system)
        if usable is not None:
            usable(meant)
    except HolsteinError as error:
        return f"the values of the file cannot be used here either: {error}"
    texts = {key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for key, value in keys.items()}
    return " ".join(["give", *(f"--set {shlex.quote(f'{key}={text}')}" for key, text in texts.items())]) + ", or another file"


def system_of(physics: Physics, system: System, extent: Sequence[int] | None = None) -> System:
    """``system`` with all that a file states, on a lattice of ``extent`` if that is another."""
    said, ensemble = physics.values, system.ensemble
    kind, name = said.get("lattice", system.lattice.name), said.get("hamiltonian", system.hamiltonian.name)
    edges = tuple(said.get("periodic", system.lattice.periodic))
    lattice = kinds.resolve("lattice", kind).build(tuple(extent or system.lattice.extent), edges)
    own = system.hamiltonian.parameters if name == system.hamiltonian.name else {}
    values = {**own, **physics.parameters}
    options = parsed_section("hamiltonian", name, values, "hamiltonian").options
    section = {"kind": said.get("ensemble", ensemble.kind), "kT": said.get("kT", ensemble.kT)}
    other = "filling" if section["kind"] == "canonical" else "chemical_potential"
    section[other] = said.get(f"ensemble.{other}", getattr(ensemble, other))
    try:
        meant = EnsembleSection.model_validate(section).build()
    except ValidationError:
        raise ConfigError(f"an ensemble of {section} is none") from None
    return System(lattice, kinds.resolve("hamiltonian", name).build(options, lattice), meant)
