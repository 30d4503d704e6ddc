"""What judges the network of a run: from ``[trust]`` and the models to the observer of the loop."""

from __future__ import annotations

from pathlib import Path

from hpc_holstein.cli.restart import Start
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import refuse_existing
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.simulation import Limits, Simulation, Trust
from hpc_holstein.training import dataset
from hpc_holstein.training.collected import Collected


def limits_of(config: Config, simulation: Simulation) -> Limits | None:
    """The limits and their cadence; None where there is nothing to judge by.

    Raises ConfigError for a limit of what the run does not know, and for a cadence that the rows of observables do not have.
    """
    forces = simulation.forces
    committee = isinstance(forces, NeuralForces) and forces.committee is not None
    return limits_with(config, committee, isinstance(forces, NeuralForces) and bool(forces.field_range))


def limits_with(config: Config, committee: bool, ranged: bool) -> Limits | None:
    """:func:`limits_of` a run with or without a committee, and a network whose card has a range."""
    section, rows = config.trust, config.output.observables_every
    every = section.every or rows
    if every % rows:
        raise ConfigError(
            f"trust.every = {every} is no multiple of output.observables_every = {rows}, whose rows it writes: give a multiple"
        )
    for key in section.limited:
        if key == "max_outside" and not ranged:
            raise ConfigError(
                "trust.max_outside needs a network whose card has the range that it was trained on, which older model files "
                "lack: train it again, or leave the limit out"
            )
        if key != "max_outside" and not committee:
            raise ConfigError(
                f"trust.{key} needs a committee: give force.committee = [model files] beside force.model, or leave it out"
            )
    limits = {key: getattr(section, key) for key in section.limited}
    return Limits(every, action=section.action, **limits) if committee or ranged else None


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
