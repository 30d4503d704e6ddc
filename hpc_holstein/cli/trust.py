"""Judges of the network of a run: the limits of ``[trust]``, the observer of the loop, the error of the chemical potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpc_holstein.cli.restart import Start
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config
from hpc_holstein.config.builders import build_system, forces_maker
from hpc_holstein.config.kinds import KindSection
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.files import refuse_existing
from hpc_holstein.forces._committee import potential_uncertainty
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import State, System
from hpc_holstein.network.checkpoint import Card, read_card
from hpc_holstein.network.packaged import model_path
from hpc_holstein.simulation import Limits, Simulation, Trust
from hpc_holstein.simulation.trust import unfamiliar_parts
from hpc_holstein.training import dataset
from hpc_holstein.training.collected import Collected
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.regimes import Regimes

_OF_CARD = {"max_outside": "range that it was trained on", "max_unfamiliar": "surroundings that it was trained on"}
_METRIC = "validation.{}.electron_number_rms_error"
_GATHERED = 1 << 24  # sites up to which the regime of the last state is looked at, for which one rank has them all
_ALIKE = 0.01  # electrons per site between the filling of a run and that of the training


def limits_of(config: Config, simulation: Simulation) -> Limits | None:
    """The limits and their cadence; None where there is nothing to judge by.

    Raises ConfigError for a limit of what the run does not know, and for a cadence that the rows of observables do not have.
    """
    forces = simulation.forces
    if not isinstance(forces, NeuralForces):
        return limits_with(config, False, False, False)
    return limits_with(config, forces.committee is not None, bool(forces.field_range), forces.surroundings is not None)


def limits_with(config: Config, committee: bool, ranged: bool, surrounded: bool) -> Limits | None:
    """:func:`limits_of` a run with or without a committee, and a network whose card has a range and surroundings."""
    section, rows = config.trust, config.output.observables_every
    every = section.every or rows
    if every % rows:
        raise ConfigError(
            f"trust.every = {every} is no multiple of output.observables_every = {rows}, whose rows it writes: give a multiple"
        )
    for key in section.limited:
        if key in _OF_CARD:
            if not {"max_outside": ranged, "max_unfamiliar": surrounded}[key]:
                raise ConfigError(
                    f"trust.{key} needs a network whose card has the {_OF_CARD[key]}, which older model files lack: train it "
                    "again, or leave the limit out"
                )
        elif not committee:
            raise ConfigError(
                f"trust.{key} needs a committee: give force.committee = [model files] beside force.model, or leave it out"
            )
    limits = {key: getattr(section, key) for key in section.limited}
    return Limits(every, action=section.action, **limits) if committee or ranged or surrounded else None


def trained_elsewhere(simulation: Simulation) -> str:
    """Difference of this system from that of the training of its network, in one sentence; empty without one."""
    return simulation.forces.trained_elsewhere if isinstance(simulation.forces, NeuralForces) else ""


def unlike_training(section: KindSection, system: System, judged: Snapshots) -> dict[str, float]:
    """Record of how many of the states that a network judged, at its own ``mu``, are unlike its training; empty if unknown."""
    forces = forces_maker(system, section)(CartesianDomain(system.lattice, SerialTransport()))
    if not isinstance(forces, NeuralForces) or judged.chemical_potential is None:
        return {}
    parts = unfamiliar_parts(judged.fields(), judged.chemical_potential.tolist(), forces)
    if parts is None or forces.surroundings is None:
        return {}
    usual = forces.surroundings.limit(system.lattice.sites)
    unlike = sum(part > usual for part in parts)
    return {"states": len(parts), "unlike_training": unlike, "largest_unfamiliar_fraction": max(parts), "usual": usual}


def unlike_in_words(found: Mapping[str, float]) -> str:
    """One sentence of :func:`unlike_training`."""
    told = f"{found['unlike_training']} of {found['states']} states are unlike those that the network was trained on"
    largest, usual = 100 * found["largest_unfamiliar_fraction"], 100 * found["usual"]
    return f"{told}: up to {largest:.2g} % of the sites in unfamiliar surroundings, {usual:.2g} % are usual"


def refuse_foreign_states(start: Start, path: Path, limits: Limits | None) -> None:
    """On the root: raise DataError where a new run would write to the collected states of another one."""
    if limits is not None and limits.action == "collect" and (start.step is None or not start.own):
        refuse_existing(path)


def trust_of(
    limits: Limits | None, config: Config, simulation: Simulation, start: Start, path: Path, session: Session
) -> Trust | None:
    """The observer, with what the sessions before this one found; ``path``: of the collected states.  Collective."""
    if limits is None:
        return None
    domain, forces = simulation.domain, simulation.forces
    assert isinstance(forces, NeuralForces)
    attributes = dataset.physics_attributes(domain.lattice, simulation.hamiltonian, simulation.ensemble)
    model, section = config.force.option_values.get("model", "default"), config.trust
    attributes |= {"collected.seed": config.dynamics.seed, "collected.model": model}
    most, distance = section.collect_at_most, section.collect_distance
    collector = Collected(path, domain, session.transport, attributes, most, distance)
    collector.resume(start.step or 0)
    kept = collector if limits.action == "collect" else None
    return Trust(limits, forces, domain, session.transport, session.say, kept, start.account)


@dataclass(frozen=True)
class PotentialError:
    """Errors of ``mu`` [t_nn] and of the force [t_nn/a, rms] for one of the electron number [1/site], or why none is known."""

    regime: str | None = None
    electron_number_error: float | None = None
    chemical_potential_error: float | None = None
    force_rms_error: float | None = None
    unknown: str | None = None

    def in_words(self) -> str:
        """One line for the end of a run."""
        if self.unknown is not None:
            return f"error of the chemical potential unknown: {self.unknown}"
        return (
            f"chemical potential known up to about {self.chemical_potential_error:.2g} t_nn, which makes a force error of "
            f"{self.force_rms_error:.2g} t_nn/a (rms): the electron number of the network was off by "
            f"{self.electron_number_error:.1e} a site on {self.regime} states of its validation set"
        )

    def content(self) -> dict[str, Any]:
        """Content of summary.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def potential_error(config: Config, simulation: Simulation, state: State) -> PotentialError | None:
    """At the last state of a run; None for one that finds no ``mu`` from the density of a network.  Collective."""
    forces = simulation.forces
    if not isinstance(forces, NeuralForces) or simulation.ensemble.kind != "canonical":
        return None
    assert state.forces is not None
    if math.isnan(float(state.forces.chemical_potential)):
        return None  # a network of the plain field
    card = read_card(model_path(config.force.options.model, build_system(config)))
    unknown = _unknown(card, simulation)
    if unknown:
        return PotentialError(unknown=unknown)
    regime = _regime(simulation, state)
    judged_on = regime if _METRIC.format(regime) in card.metrics else "all"
    electrons = card.metrics[_METRIC.format(judged_on)]
    try:
        return PotentialError(judged_on, electrons, *potential_uncertainty(forces, state, electrons))
    except SpectrumError as error:
        return PotentialError(judged_on, electrons, unknown=str(error))


def _regime(simulation: Simulation, state: State) -> str:
    """Regime of the last state, ``all`` for large lattices; collective."""
    domain = simulation.domain
    if domain.lattice.sites > _GATHERED:
        return "all"
    whole = domain.gather(state.q)
    regime = None if whole is None else Regimes(domain.lattice).of(whole.cpu())
    return str(simulation.transport.bcast(regime))


def _unknown(card: Card, simulation: Simulation) -> str | None:
    """Why the card says nothing about this run."""
    filling = simulation.ensemble.filling
    if simulation.hamiltonian.name != card.hamiltonian:
        return (
            f"the network was judged on states of the {card.hamiltonian} Hamiltonian and this run has the "
            f"{simulation.hamiltonian.name} one; `hpc-holstein validate` measures it"
        )
    if _METRIC.format("all") not in card.metrics:
        return "the card of the model does not say how well it knows the electron number; `hpc-holstein validate` measures it"
    low, high = card.ranges.get("filling", (card.filling, card.filling))
    if not low - _ALIKE <= filling <= high + _ALIKE:
        there = " to ".join(f"{one:g}" for one in dict.fromkeys((low, high)))
        told = f"the network was judged at filling {there} and this run has {filling:g}"
        return f"{told}; `hpc-holstein validate` measures it"
    return None
