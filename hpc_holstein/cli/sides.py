"""The judged force and its judge: the two sides of ``validate`` from its options, and the providers of its error budget."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.cli.options import force_overrides
from hpc_holstein.config import Config, parse_assignment
from hpc_holstein.config.builders import forces_maker, require_forces
from hpc_holstein.config.kinds import KindSection, available, new_section, require_choice
from hpc_holstein.config.loading import parsed_section
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._sampled import chosen_sites
from hpc_holstein.interfaces import Ensemble, System
from hpc_holstein.network.checkpoint import read_card
from hpc_holstein.network.packaged import model_path
from hpc_holstein.training.budget import IntermediateForces, MakeInEnsemble
from hpc_holstein.training.paths import MakeForces
from hpc_holstein.training.validation import Comparison, ForceSource
from hpc_holstein.training.verdict import JudgedForce

LABELS = "labels"
_JUDGED_WHOLE = ("kpm",)  # its probing error is a part of what is judged, and a sample has none
_POTENTIAL_KIND, _POTENTIAL_TOLERANCE = "kpm", 1e-4  # mu from all sites: the mean averages their errors
_TIGHTER = 0.1
_CHEAP = ("neural", "atomic")
_BUDGET_SITES = {
    "expansion": 64,
    "local": 1024,
}  # without --sites: a unit vector costs a sweep of the lattice, a cluster little


@dataclass(frozen=True)
class ForcePair:
    """The two sides of a comparison: their sections (``reference`` None: stored labels), and the sites of the sampled ones.

    ``sites``, ``seed``: as the options of the sampled kinds; 0: all sites.
    """

    judged: KindSection
    reference: KindSection | None
    sites: int
    seed: int

    def chosen(self, system: System) -> NDArray[np.int64] | None:
        """Numbers of the sites that are compared, None for all; ConfigError for more sites than the lattice has."""
        return chosen_sites(system.lattice, self.sites, self.seed).numpy() if self.sites else None

    def require(self, system: System) -> None:
        """Raise ModelError where a network of either side cannot give the forces of ``system``."""
        for section in (self.judged, self.reference):
            if section is not None:
                require_forces(section, system)

    def build(self, system: System) -> tuple[ForceSource, ForceSource, ForceSource | None]:
        """Judged side, reference, and who knows ``mu`` where neither does: a section is sampled as far as its kind can be."""
        judged = self._side(system, "force", self.judged, self.judged.kind not in _JUDGED_WHOLE)
        reference = ForceSource(f"reference {LABELS}", None)
        if self.reference is not None:
            reference = self._side(system, "reference", self.reference, True)
        if system.ensemble.kind != "canonical":
            return judged, reference, None
        section = new_section("force", _POTENTIAL_KIND, tolerance=_POTENTIAL_TOLERANCE)
        name = f"{section.kind} of the whole lattice (tolerance {_POTENTIAL_TOLERANCE:g})"
        return judged, reference, ForceSource(name, forces_maker(system, section))

    def _side(self, system: System, role: str, section: KindSection, may_sample: bool) -> ForceSource:
        sampled = bool(self.sites) and may_sample and "sites" in section.option_names()
        if sampled:
            section = _with(section, sites=self.sites, seed=self.seed)
        return ForceSource(f"{role} {section.kind}", forces_maker(system, section), sampled)


def sides_of(args: argparse.Namespace, config: Config) -> ForcePair:
    """The sides that the options of ``validate`` ask for, checked; ``config`` holds the judged provider.

    The reference starts from the defaults of its kind, whatever the configuration says of the judged one.
    """
    if args.sites_seed is not None and args.sites is None:
        raise ConfigError(f"--sites-seed {args.sites_seed} has no meaning without --sites: give --sites N or remove it")
    values = dict(_assignment(text) for text in args.reference_set)
    if args.reference == LABELS and values:
        raise ConfigError("--reference-set has no meaning with stored labels: remove it, or name a provider as the reference")
    judged = config.force
    reference = None if args.reference == LABELS else _reference(args.reference, values)
    if args.reach is not None:
        if judged.kind == "local":
            judged = _with(judged, reach=args.reach)
        elif reference is not None and reference.kind == "local":
            reference = _with(reference, reach=args.reach)
        else:
            raise ConfigError(
                f"--reach {args.reach} sets the reach of local, and neither side is local: add --force local or remove it"
            )
    for section in (judged, reference):
        if section is not None and "sites" in section.option_values:
            raise ConfigError("the option sites belongs to both sides of a comparison: give --sites N instead")
    return ForcePair(judged, reference, args.sites or 0, args.sites_seed or 0)


def judged_at_reference(sides: ForcePair, system: System, found: Comparison) -> IntermediateForces | None:
    """The judged side at the ``mu`` of the reference; None where it costs much, knows none, or has the same.

    One evaluation of a network, or of the atomic limit, is nothing beside a reference.
    """
    own, true = found.predicted.snapshots.chemical_potential, found.chemical_potential
    cheap = sides.judged.kind in _CHEAP
    if not (cheap and system.ensemble.kind == "canonical") or own is None or true is None or not np.isfinite(own).all():
        return None
    return IntermediateForces("chemical potential", _maker(system, sides.judged), true)


def subject_of(sides: ForcePair, system: System) -> JudgedForce:
    """The judged side, for a verdict."""
    if sides.judged.kind == "neural":
        return JudgedForce.of_network(read_card(model_path(sides.judged.options.model, system)).training)
    if sides.judged.kind == "atomic":
        return JudgedForce("the atomic limit", *["train a network, which has it as its baseline"] * 2)
    return JudgedForce(sides.judged.kind)


def budget_rungs(sides: ForcePair, system: System, found: Comparison) -> tuple[list[IntermediateForces], str]:
    """The providers between the judged force and the reference, and what the last difference is called.

    A kind with an expansion: without probing, with a ten times tighter expansion, at the ``mu`` of the reference.  A network:
    at the ``mu`` of the reference, and ``local`` of the same reach.  Raises ConfigError where the reference knows no ``mu``.
    """
    section, options = sides.judged, sides.judged.option_names()
    own, true = found.predicted.snapshots.chemical_potential, found.chemical_potential
    if true is None:
        raise ConfigError("--budget needs the chemical potential of the reference, which does not know it: use exact or kpm")
    assert own is not None
    moves = system.ensemble.kind == "canonical" and np.isfinite(own).all() and not np.array_equal(own, true)
    rungs = []
    if "sites" in options and "tolerance" in options:
        plain = _at_sites(section, sides, system, "expansion")
        tight = _with(plain, tolerance=_TIGHTER * plain.options.tolerance)
        if not (sides.sites and section.kind not in _JUDGED_WHOLE):
            rungs.append(IntermediateForces("probing", _maker(system, plain), own))
        rungs.append(IntermediateForces("truncation", _maker(system, tight), own))
        if moves:
            rungs.append(IntermediateForces("chemical potential", _maker(system, tight), true))
        return rungs, "rest"
    if moves:
        rungs.append(IntermediateForces("chemical potential", _maker(system, section), true))
    if found.predicted.reach is None:
        return rungs, "rest"
    if section.kind == "local":
        return rungs, f"reach {found.predicted.reach}"
    floor = _at_sites(new_section("force", "local", reach=found.predicted.reach), sides, system, "local")
    rungs.append(IntermediateForces("network" if section.kind == "neural" else section.kind, _maker(system, floor), true))
    return rungs, f"reach {found.predicted.reach}"


def _reference(name: str, values: dict[str, Any]) -> KindSection:
    """The section of ``--reference``, with the options of ``--reference-set``."""
    given = {key.partition(".")[2]: value for key, value in force_overrides(name).items()}
    kind = require_choice("--reference", given.pop("kind"), [*available("force"), LABELS])
    return parsed_section("force", kind, {**given, **values}, "reference")


def _assignment(text: str) -> tuple[str, Any]:
    """``key=value`` of ``--reference-set``."""
    if not text.partition("=")[0].strip() or "=" not in text:
        raise ConfigError(f"--reference-set {text} is not an assignment: write key=value, for instance tolerance=1e-8")
    return parse_assignment(text)


def _at_sites(section: KindSection, sides: ForcePair, system: System, cost: str) -> KindSection:
    """The section at the sampled sites of the comparison, or at as many as cost little; unit vectors have no probing error."""
    count = sides.sites or min(_BUDGET_SITES[cost], system.lattice.sites)
    unit = {"probing": "colours"} if "probing" in section.option_names() else {}
    return _with(section, sites=count, seed=sides.seed, **unit)


def _maker(system: System, section: KindSection) -> MakeInEnsemble:
    def make(ensemble: Ensemble) -> MakeForces:
        return forces_maker(replace(system, ensemble=ensemble), section)

    return make


def _with(section: KindSection, **values: Any) -> KindSection:
    return section.model_copy(update=values)
