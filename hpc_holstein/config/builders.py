"""From a checked configuration to the objects that it describes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hpc_holstein import dynamics
from hpc_holstein.config import kinds
from hpc_holstein.config.kinds import KindSection
from hpc_holstein.config.loading import config_of_text, fit_options
from hpc_holstein.config.schema import Config
from hpc_holstein.config.sections import InitialSection
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField, Stream
from hpc_holstein.domain.torch_transport import connected
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import ConfigError, DataError, ModelError
from hpc_holstein.fields import SiteAxes
from hpc_holstein.files import exists_already, replaced
from hpc_holstein.forces import auto
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, Hamiltonian, Integrator, Lattice, State, System
from hpc_holstein.memory import require_room
from hpc_holstein.network import checkpoint
from hpc_holstein.network.packaged import model_path
from hpc_holstein.network.supported import model_for
from hpc_holstein.simulation import LARGEST, BatchHealth, Health, MeteredTransport, Simulation, require_memory
from hpc_holstein.storage import trajectory as hdf5
from hpc_holstein.training import dataset
from hpc_holstein.training.paths import MakeWatch
from hpc_holstein.training.physics import Physics, in_words

_OWN_MODEL = "force-model.safetensors"
"""The model file that a run keeps in its folder, so that the folder can be moved and the model elsewhere can be gone."""


def build_system(config: Config) -> System:
    """Lattice, Hamiltonian and ensemble."""
    section = config.lattice
    lattice = kinds.resolve("lattice", section.kind).build(section.extent, section.periodic)
    module = kinds.resolve("hamiltonian", config.hamiltonian.kind)
    hamiltonian = module.build(config.hamiltonian.options, lattice)
    return System(lattice, hamiltonian, config.ensemble.build())


def forces_maker(
    system: System, force: KindSection, mixed: bool = False, deterministic: bool = False
) -> Callable[[Domain], ForceProvider]:
    """``make(domain)`` builds the provider that ``force`` names; ``mixed``: its network, if it has one, in float32.

    ``deterministic``: as in ``[parallel]``, ConfigError for a kind that cannot.
    """
    module = kinds.resolve("force", force.kind)
    options = force.options
    if mixed and getattr(options, "precision", None) == "state":
        options = replace(options, precision="float32")
    if deterministic and "deterministic" in force.option_names():
        options = replace(options, deterministic=True)

    def make(domain: Domain) -> ForceProvider:
        provider: ForceProvider = module.build(options, system.hamiltonian, domain, system.ensemble)
        if deterministic and not provider.deterministic:
            raise ConfigError(
                f"force.kind = '{force.kind}' computes in an order that depends on the ranks, which parallel.deterministic = "
                "true excludes: use neural, exact or atomic, or leave deterministic out"
            )
        return provider

    return make


def model_facts(force: KindSection, system: System) -> dict[str, str]:
    """SHA-256 and card of the model that drives, as attributes of files; nothing for a provider without a model."""
    if force.kind != "neural":
        return {}
    path = model_path(force.options.model, system)
    return {"model.sha256": checkpoint.model_hash(path), "model.card": json.dumps(asdict(checkpoint.read_card(path)))}


def require_forces(force: KindSection, system: System) -> None:
    """Raise :class:`ModelError` where the networks of ``force``, its committee included, cannot give the forces of ``system``.

    For commands that evaluate it late; nothing is asked of the other kinds.
    """
    if force.kind == "neural":
        for model in (force.options.model, *force.options.committee):
            model_for(model, system.hamiltonian, system.ensemble, system.lattice)


def scaling_told(force: KindSection, system: System) -> list[str]:
    """A sentence if the network of ``force`` was made for another scale than that of ``system`` and serves it."""
    if force.kind != "neural":
        return []
    card = checkpoint.read_card(model_path(force.options.model, system))
    sentence = card.scaling(system.hamiltonian).in_words()
    return [sentence] if sentence else []


def provider_facts(force: KindSection, system: System) -> dict[str, str]:
    """:func:`model_facts`, and whom ``auto`` chooses, as ``provider.chosen``."""
    facts = model_facts(force, system)
    if force.kind == "auto":
        facts["provider.chosen"] = auto.choose(system.lattice.sites, system.ensemble.kT)[0]
    return facts


def build_network(config: Config, system: System) -> tuple[torch.nn.Module, Any]:
    """The network of ``[model]`` with fresh weights drawn from the seed of ``[training]``, and its options.

    Parameters of the electrons that the architecture takes (``g``, ``kT``) are those of the system unless given.  ConfigError
    for another ``g``: a run would not know of it.
    """
    module = kinds.resolve("model", config.model.kind)
    physics: dict[str, Any] = {**system.hamiltonian.parameters, "kT": system.ensemble.kT}
    given, of_matrix = config.model.option_values, getattr(config.model.made_of, "in_hopping", False)
    if of_matrix:
        physics = {"kT": system.ensemble.kT / system.hamiltonian.hopping, "orbitals": system.hamiltonian.orbital_kind}
    implied = {name: physics[name] for name in config.model.option_names() if name in physics}
    if not of_matrix and given.get("g", physics.get("g")) != physics.get("g"):
        raise ConfigError(f"model.g = {given['g']} is not hamiltonian.g = {physics.get('g')}, which it follows: leave it out")
    options = config.model.made_of(**{**implied, **given})
    told = f"{getattr(options, 'fewest_weights', 0):.3g} weights or more, which [model] asks for,"
    require_room(told, 1, _bytes_of(options), less="fewer copies, levels or widths")
    torch.manual_seed(fit_options(config).seed)
    return module.build(options, system.lattice), options


def _bytes_of(options: Any) -> float:
    """Memory of a training of the network of ``options`` at least: weights, their mean and best, gradients, two moments."""
    return 6.0 * 4 * float(getattr(options, "fewest_weights", 0))


def stated_physics(attributes: Mapping[str, Any]) -> Physics:
    """Physics that the attributes of a file state: those of a trajectory hold the configuration of its run."""
    said = Physics.stated(attributes)
    if "config" not in attributes:
        return said
    system = build_system(config_of_text(str(attributes["config"])))
    return Physics.of(system.lattice, system.hamiltonian, system.ensemble).joined(said)


def health_of(config: Config, start: Mapping[str, float]) -> Health:
    """The limits of ``[health]``; ``start``: what a run that is continued is measured against."""
    health = Health(config.ensemble.build(), config.dynamics.dt, **config.health.model_dump())
    health.start.update(start)
    return health


def build_integrator(config: Config, system: System) -> Integrator:
    """The one-step scheme of ``[dynamics]``.

    Raises ConfigError where ``system`` cannot be moved: its energy has no lower bound, or a mode is unstable at this ``dt``.
    """
    section = config.dynamics
    integrator = dynamics.build(section.scheme, section.mass, section.gamma, section.dt, config.ensemble.kT)
    system.hamiltonian.require_ground_state()
    integrator.require_stable(system.hamiltonian.stiffness[1])
    return integrator


@dataclass
class _QuenchPhysics:
    domain: Domain
    hamiltonian: Hamiltonian
    ensemble: Ensemble
    mass: float
    dt: float


def watch_maker(config: Config, system: System) -> MakeWatch:
    """The health limits of a run for quenches that make training states, see :class:`simulation.BatchHealth`."""
    section = config.dynamics

    def make(domain: Domain, quenches: Sequence[int]) -> BatchHealth:
        physics = _QuenchPhysics(domain, system.hamiltonian, system.ensemble, section.mass, section.dt)
        limits = [health_of(config, {}) for _ in quenches]
        return BatchHealth(physics, limits, quenches, config.output.observables_every)

    return make


def require_dynamics(config: Config) -> None:
    """Raise what a run of ``config`` would raise of its dynamics, for commands whose runs come later."""
    build_integrator(config, build_system(config))


def build_simulation(config: Config, transport: Transport, device: str) -> Simulation:
    """Everything that a run needs, checked: halo against tiles, model against Hamiltonian; collective.

    Raises DomainError, ModelError, ConfigError before any work.
    """
    system = build_system(config)
    parallel = config.parallel
    metered = MeteredTransport(connected(parallel.transport, transport, device, parallel.gpu_buffers))
    domain = CartesianDomain(system.lattice, metered, grid=config.parallel.grid, device=device)
    components = system.hamiltonian.components
    require_memory(domain, metered, config.parallel.torch_dtype, gathers=False, components=components)
    section = config.dynamics
    noise = NoiseField(section.seed, Stream.DYNAMICS, domain, system.hamiltonian.components, config.parallel.torch_dtype)
    return Simulation(
        domain=domain,
        hamiltonian=system.hamiltonian,
        ensemble=system.ensemble,
        forces=forces_maker(system, config.force, config.parallel.dtype == "mixed", config.parallel.deterministic)(domain),
        integrator=build_integrator(config, system),
        noise=noise,
        mass=section.mass,
        dt=section.dt,
        transport=metered,
    )


def initial_state(config: Config, simulation: Simulation, say: Callable[[str], None] | None = None) -> State:
    """Random coordinates and velocities keyed by the seed and the global site, or a stored snapshot; collective.

    A stored snapshot of another system is a start as good as any, which ``say`` is told; ConfigError for one of another lattice
    or Hamiltonian, whose coordinates mean something else.
    """
    section, domain = config.initial, simulation.domain
    dtype = config.parallel.torch_dtype

    def normal(stream: Stream) -> torch.Tensor:
        return NoiseField(config.dynamics.seed, stream, domain, simulation.hamiltonian.components, torch.float64)(0)

    velocity = section.velocity_std * normal(Stream.INITIAL_VELOCITY)
    if section.q_std is not None:
        return State((section.q_std * normal(Stream.INITIAL_Q)).to(dtype), velocity.to(dtype))
    stored = read_state(section, domain.lattice)
    odd = stored.physics.differences(Physics.of(domain.lattice, simulation.hamiltonian, simulation.ensemble))
    if {"lattice.kind", "hamiltonian.kind"} & odd.keys():
        raise ConfigError(f"initial.file {section.file} belongs to another model: {in_words(odd)}; use another file")
    if stored.q.shape[-1] != simulation.hamiltonian.components:
        raise DataError(f"initial.file {section.file} has {stored.q.shape[-1]} components on each site: choose another file")
    if odd and say is not None:
        say(f"initial.file {section.file} is a state of another system ({in_words(odd)}), from which this run starts")
    q_local = domain.scatter(stored.q if domain.rank == 0 else None, velocity)
    if stored.velocity is not None:
        velocity = domain.scatter(stored.velocity if domain.rank == 0 else None, velocity)
    return State(q_local.to(dtype), velocity.to(dtype))


class StoredState(NamedTuple):
    """A snapshot of a file, fields ``[*extent, basis, components]``; ``velocity`` of trajectories; what the file says."""

    q: torch.Tensor
    velocity: torch.Tensor | None
    physics: Physics


def read_state(section: InitialSection, lattice: Lattice) -> StoredState:
    """A snapshot of a file of states, or of a trajectory (file or folder of a run), with its velocities.

    Every rank reads, so that all of them see the same error.  Raises :class:`DataError`.
    """
    path = Path(section.file or "")
    if path.is_dir():
        path = path / "trajectory.h5"
    velocity = None
    if hdf5.is_trajectory(path):
        with hdf5.open_trajectory(path) as trajectory:
            snapshot = trajectory.snapshot(section.snapshot)
            q, velocity, physics = snapshot.q, snapshot.velocity, stated_physics(trajectory.attributes)
            there = trajectory.sites.extent, trajectory.sites.basis
    else:
        snapshots = dataset.read(path, axes=SiteAxes.of(lattice))
        if not -len(snapshots) <= section.snapshot < len(snapshots):
            raise DataError(f"initial.snapshot = {section.snapshot} is not in {path}: it holds {len(snapshots)} snapshots")
        q, there = snapshots.q[section.snapshot], (snapshots.extent, snapshots.axes.basis)
        physics = stated_physics(snapshots.label_attributes).joined(stated_physics(snapshots.attributes))
    cells, basis = tuple(lattice.extent), len(lattice.basis)
    if there != (cells, basis):
        given, wanted = (
            "x".join(map(str, e)) + (f" cells of {b} sites" if b > 1 else " cells") for e, b in (there, (cells, basis))
        )
        remedy = (
            f"lattice.extent to {'x'.join(map(str, there[0]))}" if there[1] == basis else "lattice.kind to that of the file"
        )
        raise DataError(f"initial.file {path} holds {given} and the lattice has {wanted}: set {remedy}")
    if np.abs(q).max() >= LARGEST:
        raise DataError(f"snapshot {section.snapshot} of initial.file {path} has |q| beyond {LARGEST:g}: choose another one")
    fields = [None if f is None else torch.as_tensor(f, dtype=torch.float64).reshape(*cells, basis, -1) for f in (q, velocity)]
    assert fields[0] is not None
    return StoredState(fields[0], fields[1], physics)


def with_own_model(config: Config, folder: Path, wanted: str | None = None) -> Config:
    """``config`` with the model in the ``folder`` of its run if ``force.model`` is gone or has not the SHA-256 ``wanted``."""
    own = folder / _OWN_MODEL
    if config.force.kind != "neural" or not own.is_file():
        return config
    path = model_path(config.force.options.model, build_system(config))
    there = path.is_file() and wanted in (None, checkpoint.model_hash(path))
    if there or wanted not in (None, checkpoint.model_hash(own)):
        return config
    return config_of_text(config.toml(), {"force.model": str(own)})


def keep_model(config: Config, folder: Path) -> None:
    """Copy the model that drives into the ``folder`` of the run; ModelError where another one is there."""
    if config.force.kind != "neural":
        return
    path, own = model_path(config.force.options.model, build_system(config)), folder / _OWN_MODEL
    if own.is_file():
        if checkpoint.model_hash(own) != checkpoint.model_hash(path):
            raise ModelError(exists_already(own))
        return
    content = path.read_bytes()
    with replaced(own, ModelError) as temporary:
        temporary.write_bytes(content)
