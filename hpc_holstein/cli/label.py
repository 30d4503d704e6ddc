"""``hpc-holstein label``: forces for given snapshots, or labelled snapshots from scratch."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from hpc_holstein.cli.arguments import MORE_MU, MU_WIDTH
from hpc_holstein.cli.options import configuration, default_preset, force_overrides, overrides, require_no_dynamics, site_axes
from hpc_holstein.cli.session import Bar, Session, stoppable
from hpc_holstein.config import TRAINING_EXTENT, Config, builders, load_config
from hpc_holstein.config.same_physics import require_fit
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import ConfigError
from hpc_holstein.fields import SiteAxes
from hpc_holstein.files import require_writable
from hpc_holstein.interfaces import System
from hpc_holstein.memory import require_room
from hpc_holstein.training import dataset
from hpc_holstein.training.label import FurtherPotentials, label_file, make_file, memory_bytes
from hpc_holstein.training.paths import QuenchPlan, RandomPlan, Stop, early_dense_steps, even_steps

_QUENCH_STEPS, _PER_QUENCH = 2000, 40
_ALONG_QUENCHES = ("per_quench", "quench_steps", "even", "path_force")
_DRAWING = ("random", "quenches", *_ALONG_QUENCHES)


def execute(args: argparse.Namespace, session: Session) -> None:
    """Label a file, or make one."""
    _require_consistent(args)
    with stoppable(session, args.max_walltime, args.output) as stop:
        _execute(args, session, stop)


def _execute(args: argparse.Namespace, session: Session, stop: Stop) -> None:
    config = configuration(args, _extent(args))
    session.on_root(lambda: require_writable(args.output))
    device = session.use(config.parallel.threads, config.parallel.device)
    system = builders.build_system(config)
    if args.input is None:  # who labels comes after the quenches
        builders.require_forces(config.force, system)
    session.say_all(builders.scaling_told(config.force, system))
    labels: dict[str, Any] = {**builders.provider_facts(config.force, system)}
    labels |= dataset.physics_attributes(system.lattice, system.hamiltonian, system.ensemble)
    labels |= {"provider": config.force.kind, **{f"provider.{k}": v for k, v in config.force.option_values.items()}}
    _require_memory(args, config, system, session)
    plans = {} if args.input is not None else _plans(args, config, system)
    if "quenches" in plans:
        session.say(plans["quenches"].integrator.time_step_in_words(system.hamiltonian.stiffness[1]))
    further = _further(args, config, system, labels.get("provider.chosen", config.force.kind))
    if further is not None:
        labels |= {f"further.{name}": value for name, value in asdict(further).items()}
    with Bar(session) as bar:
        common: dict[str, Any] = {
            "lattice": system.lattice,
            "transport": session.transport,
            "make_forces": builders.forces_maker(system, config.force),
            "label_attributes": labels,
            "device": device,
            "progress": bar,
            "further": further,
            "stop": stop,
        }
        if args.input is not None:
            states = dataset.read(args.input, axes=SiteAxes.of(system.lattice))
            require_fit(states, args.input, system, lambda meant: builders.require_forces(config.force, meant))
            made = label_file(args.input, args.output, **common)
        else:
            attributes = dataset.physics_attributes(system.lattice, system.hamiltonian, system.ensemble)
            made = make_file(args.output, attributes=attributes, **common, **plans)
    session.say(
        f"wrote {args.output}: {len(made)} snapshots of {'x'.join(map(str, made.extent))} cells, forces by {_labeller(args)}"
    )


def _require_memory(args: argparse.Namespace, config: Config, system: System, session: Session) -> None:
    """Raise ConfigError where the snapshots that are asked for, or their further potentials, do not fit into memory."""
    sites, more = system.lattice.sites * system.hamiltonian.components, args.more_mu or 0
    if args.input is None:
        steps = args.quench_steps or _QUENCH_STEPS
        along = (args.quenches or 0) * min(args.per_quench or _PER_QUENCH, steps + 1)
        count, told = (args.random or 0) + along, f"snapshots of {shown(config.lattice.extent)} cells"
    else:
        count, told = len(dataset.read(args.input, axes=site_axes(args))), f"snapshots of {args.input}"
    told, more_told = f"{count} {told}", f"{more} further chemical potentials (--more-mu) of {count} {told}"

    def require() -> None:
        require_room(told, count, memory_bytes(sites), session.local_size)
        of_one = count * (memory_bytes(sites, 1) - memory_bytes(sites))
        require_room(more_told, more, of_one, session.local_size)

    session.on_root(require)


def _require_consistent(args: argparse.Namespace) -> None:
    """Either a file comes in, or snapshots are made."""
    making = [name for name in ("random", "quenches") if getattr(args, name) is not None]
    if args.input is not None:
        odd = [name for name in (*_DRAWING, "lattice.extent") if getattr(args, name)]
        if odd:
            option = odd[0].partition(".")[0].replace("_", "-")
            raise ConfigError(f"--{option} has no meaning with --input, which brings its own states: remove it")
    elif not making:
        raise ConfigError("nothing to label: give --input FILE, or --random N and --quenches N to make snapshots")
    driving = [name for name in _ALONG_QUENCHES if getattr(args, name)]
    if args.input is not None or args.quenches is None:
        require_no_dynamics(args, "without quenches: give --quenches N, or remove it")
    if args.input is None and args.quenches is None and driving:
        raise ConfigError(f"--{driving[0].replace('_', '-')} has no meaning without quenches: give --quenches N or remove it")


def _further(args: argparse.Namespace, config: Config, system: System, labeller: str) -> FurtherPotentials | None:
    """Further chemical potentials, as asked or those of a diagonalization: a canonical network learns its electron number."""
    free = MORE_MU if labeller == "exact" and system.ensemble.kind == "canonical" else 0
    number = free if args.more_mu is None else args.more_mu
    if args.mu_width is not None and not number:
        raise ConfigError(f"--mu-width {args.mu_width:g} has no meaning without --more-mu M: give both or neither")
    return FurtherPotentials(number, args.mu_width or MU_WIDTH, config.dynamics.seed) if number else None


def _extent(args: argparse.Namespace) -> dict[str, list[int]]:
    """The extent of the input, or the training lattice of the preset where there is no configuration file."""
    if args.input is not None:
        return {"lattice.extent": list(dataset.read(args.input, axes=site_axes(args)).extent)}
    return {} if args.config is not None else {"lattice.extent": list(TRAINING_EXTENT[str(default_preset(args))])}


def _labeller(args: argparse.Namespace) -> str:
    """Force provider that labels: ``--set force.kind`` comes after ``--force``."""
    return str(overrides(args).get("force.kind", args.force))


def _plans(args: argparse.Namespace, config: Config, system: System) -> dict[str, Any]:
    """Plan of the states to make: random snapshots, and snapshots along quenches with the dynamics of the configuration."""
    q_std, seed, components = config.initial.q_std, config.dynamics.seed, system.hamiltonian.components
    if q_std is None:
        raise ConfigError("initial.file has no meaning for new snapshots, which start at random: give initial.q_std instead")
    plans: dict[str, Any] = {}
    if args.random is not None:
        plans["random"] = RandomPlan(args.random, q_std, seed, components)
    if args.quenches is not None:
        driver, section = _labeller(args), config.force
        if args.path_force is not None:  # options that --set gives are those of who labels
            given = {key: value for key, value in overrides(args).items() if not key.startswith("force.")}
            driver = args.path_force
            section = load_config(args.config, default_preset(args), {**given, **force_overrides(driver)}).force
        builders.require_forces(section, system)
        steps, count = args.quench_steps or _QUENCH_STEPS, args.per_quench or _PER_QUENCH
        plans["quenches"] = QuenchPlan(
            count=args.quenches,
            steps=even_steps(steps, max(1, steps // max(1, count - 1))) if args.even else early_dense_steps(steps, count),
            q_std=q_std,
            velocity_std=config.initial.velocity_std,
            seed=seed,
            integrator=builders.build_integrator(config, system),
            make_forces=builders.forces_maker(system, section, mixed=config.parallel.dtype == "mixed"),
            path=driver,
            make_watch=builders.watch_maker(config, system),
            components=components,
        )
    return plans
