"""``hpc-holstein bench``: how fast this machine runs the package, and how many ranks are worth asking for."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hpc_holstein.bench import record, report
from hpc_holstein.bench.record import Record
from hpc_holstein.bench.step import StepTiming, measure_step
from hpc_holstein.cli.options import configuration, overrides, require_one_run
from hpc_holstein.cli.session import Session, require_launcher
from hpc_holstein.config import Config
from hpc_holstein.config.builders import build_system, model_facts
from hpc_holstein.domain.partition import choose_grid, shown
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import replace_text, require_writable
from hpc_holstein.stop_signals import end_no_more

_LEAST_REPEATS = 3
_LATTICE = [512, 512]


def execute(args: argparse.Namespace, session: Session) -> int:
    """One point, or the report of many; returns the exit code."""
    if args.what == "report":
        session.on_root(lambda: _report(args, session))
        return os.EX_OK
    require_launcher(session.transport)
    if args.repeats < _LEAST_REPEATS:
        raise ConfigError(f"--repeats {args.repeats} tell no spread: give {_LEAST_REPEATS} or more")
    config = _config(args, session)
    path = args.output / _file_name(args, config, session.transport.size)
    if args.skip_existing and session.on_root(path.exists):
        session.say(f"{path} is there already")
        return os.EX_OK
    session.on_root(lambda: require_writable(path))
    device = session.use(config.parallel.threads, config.parallel.device)
    library = session.mpi_facts().get("mpi")
    machine = record.machine(device, session.hosts, os.cpu_count() or 1, None if library is None else str(library))
    machine = session.transport.bcast(machine)
    how = StepTiming(args.time_steps, args.repeats, args.warm_up)
    setting, result = measure_step(config, session.transport, device, how, session.say)
    made = Record(args.what, machine, {**_common(config, session, how), **setting}, result)
    session.write_results(lambda: made.write(path))
    seconds = result["seconds"]
    session.say(
        f"{made.ranks} rank(s), {shown(setting['lattice'])}: {1e3 * seconds['median']:.4g} ms/step "
        f"({1e3 * seconds['min']:.4g} to {1e3 * seconds['max']:.4g}), {made.rate:.3g} site-steps/s"
    )
    session.say(", ".join(f"{name} {percent:.1f} %" for name, percent in made.shares.items()))
    session.say(f"wrote {path}")
    return os.EX_OK


def _config(args: argparse.Namespace, session: Session) -> Config:
    """The configuration with the lattice of this point."""
    below: dict[str, Any] = {} if args.config is not None else {"lattice.extent": _LATTICE}
    if args.what == "weak":
        if "lattice.extent" in overrides(args):
            raise ConfigError("lattice.extent follows from the tile of each rank: give --lattice-per-rank instead")
        ranks = session.transport.size
        grid = getattr(args, "parallel.grid") or choose_grid(ranks, (ranks,) * len(args.lattice_per_rank))
        extent = [n * parts for n, parts in zip(args.lattice_per_rank, grid, strict=True)]
        below = {"parallel.grid": list(grid), "lattice.extent": extent}
    config = configuration(args, below)
    require_one_run(config, "bench", "")
    return config


def _file_name(args: argparse.Namespace, config: Config, ranks: int) -> str:
    tile = args.lattice_per_rank if args.what == "weak" else config.lattice.extent
    return f"{args.what}-{_force_name(config)}-{config.parallel.dtype}-{shown(tile)}-{ranks}.json"


def _force_name(config: Config) -> str:
    model = config.force.option_values.get("model", "default")
    return config.force.kind if config.force.kind != "neural" or model == "default" else Path(model).stem


def _common(config: Config, session: Session, how: StepTiming) -> dict[str, Any]:
    """The setting of a measurement, for its record."""
    model = model_facts(config.force, build_system(config)).get("model.sha256")
    return {
        "ranks": session.transport.size,
        "threads": torch.get_num_threads(),
        "dtype": config.parallel.dtype,
        **asdict(how),
        "force": _force_name(config),
        "force_options": config.force.option_values,
        "model": model and model[:12],
        "deterministic": config.parallel.deterministic,
        "config": config.toml(),
    }


def _report(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.output.plots import scaling  # here, so that measurements do not wait for matplotlib

    lines = report.lines_of(record.read_folder(args.records))
    folder = args.output or args.records / "report"
    table, figure = folder / "report.md", folder / "scaling.png"
    require_writable(table, figure)
    text = report.markdown(lines)
    session.say(text)
    points = {
        f"{line.key['sweep']}: {line.name} ({line.key['host']})": (
            [one.ranks for one in line.records],
            [[one.result["site_steps_per_second"][name] for name in ("median", "min", "max")] for one in line.records],
            line.efficiency,
        )
        for line in lines
    }
    end_no_more()
    scaling(figure, points)
    replace_text(table, f"{text}\n![scaling]({figure.name})\n")
    session.say(f"wrote {table} and {figure.name} beside it")
