"""``hpc-holstein validate``: one force provider against another, or against stored labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from hpc_holstein.cli.options import add_config, add_physics, default_preset, force_overrides, overrides, positive
from hpc_holstein.cli.session import Bar, Session
from hpc_holstein.config import Config, config_of_text, load_config
from hpc_holstein.config.builders import build_system, forces_maker, model_facts, require_fit
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import require_writable
from hpc_holstein.output.hdf5 import open_trajectory, trajectory_of
from hpc_holstein.output.provenance import provenance, write_json
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.validation import REGIMES, Comparison, compare, summary

HELP = "compare forces on given snapshots or on the states of a run; writes validation.json and figures"
EXAMPLE = """examples: hpc-holstein validate --run quench --reference exact --states 10
          hpc-holstein validate --input test.h5 --force model.safetensors --reference labels --output test"""
LABELS = "labels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_config(parser)
    add_physics(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, metavar="FILE", help="snapshot file")
    source.add_argument("--run", type=Path, metavar="FOLDER", help="folder of a run, whose configuration is used")
    parser.add_argument("--states", type=positive, metavar="N", help="at most N states, evenly (default: 20 of a run)")
    kinds = "exact, kpm, local, neural, atomic, or a model file *.safetensors"
    parser.add_argument("--force", metavar="KIND", help=f"who is judged: {kinds} (default: that of the run, or neural)")
    parser.add_argument("--reference", default="exact", metavar="KIND", help="who judges: the same, or labels (default: exact)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder of the results (default: FOLDER/validation)")


def execute(args: argparse.Namespace, session: Session) -> None:
    """Compare and write."""
    folder = args.output or (trajectory_of(args.run).parent / "validation" if args.run else Path("validation"))
    files = {name: folder / name for name in ("validation.json", "force_parity.png", "force_errors.png")}
    session.on_root(lambda: require_writable(*files.values()))
    snapshots, config = _from_run(args) if args.run else _from_file(args)
    judged = _with_force(config, args.force) if args.force else config
    judge = None if args.reference == LABELS else _with_force(config, args.reference)
    if args.states or args.run:
        chosen = np.linspace(0, len(snapshots) - 1, min(args.states or 20, len(snapshots)))
        snapshots = snapshots.select(np.unique(chosen.round().astype(int)))
    device = session.use(config.parallel.threads, config.parallel.device)
    system = build_system(config)
    with Bar(session) as bar:
        reference = None if judge is None else forces_maker(system, judge.force)
        maker = forces_maker(system, judged.force)
        found = compare(maker, snapshots, system.lattice, session.transport, reference, device, bar)
    names = (judged.force.kind, args.reference)
    session.on_root(lambda: _write(files, found, names, {**model_facts(judged.force), **session.mpi_facts(), **provenance()}))
    session.say(f"{names[0]} against {names[1]}, total force in t_nn/a\n{summary(found.metrics)}")
    session.say("wrote " + ", ".join(str(path) for path in files.values()))


def _from_run(args: argparse.Namespace) -> tuple[Snapshots, Config]:
    """All states of a run, and its configuration with what the command line changes."""
    if args.config or args.preset:
        raise ConfigError("a configuration or preset has no meaning with --run, which brings its own: remove it")
    with open_trajectory(trajectory_of(args.run)) as trajectory:
        states = [trajectory.snapshot(index) for index in range(len(trajectory))]
        config = config_of_text(trajectory.attributes["config"], overrides(args))
    q = np.stack([state.q for state in states])
    return Snapshots.of(q, quench=0, step=np.array([state.step for state in states]), source=str(args.run)), config


def _from_file(args: argparse.Namespace) -> tuple[Snapshots, Config]:
    snapshots = dataset.read(args.input, require_labels=args.reference == LABELS)
    extent = {"lattice.extent": list(snapshots.extent)}
    config = load_config(args.config, default_preset(args), {**extent, **overrides(args)})
    require_fit(snapshots, args.input, build_system(config))
    return snapshots, config


def _with_force(config: Config, force: str) -> Config:
    return config_of_text(config.toml(), force_overrides(force))


def _write(files: dict[str, Path], found: Comparison, names: tuple[str, str], facts: dict[str, Any]) -> None:
    """JSON, parity plot and error of each snapshot."""
    from hpc_holstein.output.plots import force_errors, force_parity  # here, so that only rank 0 waits for matplotlib

    predicted, reference = found.predicted.force, found.reference.force
    assert predicted is not None
    assert reference is not None
    write_json(files["validation.json"], {"force": names[0], "reference": names[1], **found.metrics, **facts})
    force_parity(files["force_parity.png"], predicted, reference, found.metrics["all"], names)
    along = found.reference.quench != -1
    if along.any():
        errors = np.mean((predicted - reference) ** 2, axis=tuple(range(1, predicted.ndim)))
        force_errors(files["force_errors.png"], found.reference.step[along], errors[along], REGIMES)
