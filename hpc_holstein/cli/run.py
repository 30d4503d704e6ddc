"""``hpc-holstein run``: the dynamics of a configuration, alone or on the ranks that mpirun started."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_holstein.cli.options import add_config, add_lattice, add_physics, cells, force_overrides, overrides, positive
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, load_config
from hpc_holstein.config.builders import build_simulation, initial_state, model_facts
from hpc_holstein.files import require_writable
from hpc_holstein.output.analysis import finite
from hpc_holstein.output.hdf5 import TrajectoryWriter
from hpc_holstein.output.observables import require_commensurate
from hpc_holstein.output.provenance import UNITS, provenance, write_json
from hpc_holstein.simulation import Progress, Recorder, Simulation, SnapshotWriter, Summary, clock

HELP = "run the dynamics; writes trajectory.h5 and summary.json"
EXAMPLE = "example: mpirun -n 2 hpc-holstein run --preset paper-2601.04104 --lattice 200x200 --steps 1000 --output quench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser)
    add_physics(parser)
    add_lattice(parser)
    parser.add_argument("--steps", type=positive, metavar="N", help="time steps")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the initial state and the noise")
    parser.add_argument(
        "--force", metavar="KIND", help="force provider: exact, kpm, local, neural, atomic, or a model file *.safetensors"
    )
    parser.add_argument(
        "--dtype", metavar="NAME", help="mixed (networks in float32, the rest in float64: default), float64 or float32"
    )
    parser.add_argument("--grid", type=cells, metavar="PxQ", help="ranks along rows and columns (default: smallest halo)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the results (default: run)")


def execute(args: argparse.Namespace, session: Session) -> None:
    """Check everything, then run."""
    config = load_config(args.config, args.preset, _overrides(args))
    folder = Path(config.output.folder)
    files = folder / "trajectory.h5", folder / "summary.json"
    session.on_root(lambda: require_writable(*files))
    device = session.use(config.parallel.threads, config.parallel.device)
    simulation = build_simulation(config, session.transport, device)
    require_commensurate(simulation.domain.lattice)
    state = initial_state(config, simulation)
    session.say(_headline(config, simulation))
    attributes = {**simulation_facts(config), **session.mpi_facts()}
    dtype = config.parallel.torch_dtype
    with TrajectoryWriter(files[0], simulation.domain, simulation.dt, dtype, attributes) as writer:
        record = Recorder(config.output.observables_every, simulation, writer)
        observers: list[Any] = [SnapshotWriter(config.output.snapshot_every, writer)]
        if session.is_root:
            observers.append(Progress(config.dynamics.steps, simulation.domain.lattice.sites, session.say))
        _, summary = simulation.run(state, config.dynamics.steps, record, observers)
    session.on_root(lambda: write_json(files[1], _account(config, simulation, summary, attributes)))
    session.say(_closing(summary, files))


def simulation_facts(config: Config) -> dict[str, Any]:
    """Attributes of a trajectory: the configuration as TOML, the seed, the model with its card, versions."""
    return {"units": UNITS, "config": config.toml(), "seed": config.dynamics.seed, **model_facts(config.force), **provenance()}


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = force_overrides(args.force) if args.force else {}
    if args.output is not None:
        given["output.folder"] = str(args.output)
    return {**given, **overrides(args)}


def _headline(config: Config, simulation: Simulation) -> str:
    extent, grid = ("x".join(map(str, numbers)) for numbers in (config.lattice.extent, simulation.domain.grid))
    parallel = config.parallel
    return (
        f"{extent} {config.lattice.kind} lattice, rank grid {grid}, {config.force.kind} forces, {config.dynamics.scheme}, "
        f"{config.dynamics.steps} steps of dt = {config.dynamics.dt:g} hbar/t_nn, {parallel.dtype}, seed {config.dynamics.seed}"
    )


def _account(config: Config, simulation: Simulation, summary: Summary, attributes: dict[str, Any]) -> dict[str, Any]:
    """What summary.json says."""
    rest = summary.wall_seconds - summary.force_seconds
    return {
        **asdict(summary),
        "observables": {name: finite(value) for name, value in summary.observables.items()},
        "site_steps_per_second": summary.site_steps_per_second,
        "other_seconds": rest,
        "ranks": simulation.domain.size,
        "grid": list(simulation.domain.grid),
        "lattice": list(config.lattice.extent),
        **attributes,
    }


def _closing(summary: Summary, files: tuple[Path, Path]) -> str:
    """The run in a few lines."""
    found = summary.observables
    share = 100 / max(summary.wall_seconds, 1e-9)
    lines = [
        f"{summary.steps} steps of {summary.sites} sites in {clock(summary.wall_seconds)}: "
        f"{summary.site_steps_per_second:.3g} site-steps/s",
        f"time of rank 0: forces {summary.force_seconds * share:.0f} %, communication of forces and observables "
        f"{summary.communication_seconds * share:.0f} %",
        f"order parameter {found['order_parameter']:.4f}, kinetic temperature {found['kinetic_temperature']:.4f} t_nn, "
        f"electron number drift {summary.electron_number_drift:.1e} per site",
        "energy per site [t_nn]: "
        + ", ".join(f"{name.removesuffix('_energy')} {v:.4f}" for name, v in found.items() if name.endswith("_energy")),
        f"wrote {files[0]} and {files[1]}",
    ]
    return "\n".join(lines)
