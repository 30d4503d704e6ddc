"""``hpc-holstein submit``: the same as ``run``, as a Slurm job that goes on over time limits until all steps are done."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from hpc_holstein.batch import slurm
from hpc_holstein.batch.lines import command
from hpc_holstein.batch.script import Resources, Script
from hpc_holstein.batch.site import load_site
from hpc_holstein.cli import restart
from hpc_holstein.cli.options import configuration, overrides
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, parse_assignment
from hpc_holstein.config.builders import require_dynamics
from hpc_holstein.domain.partition import check_grid, choose_grid
from hpc_holstein.errors import ConfigError
from hpc_holstein.stop_signals import end_no_more


def resources_of(args: argparse.Namespace) -> Resources:
    """The resources of parsed options."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Resources)}
    told: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    resources = Resources(**{**told, "sbatch": tuple(args.sbatch or ())})
    if resources.gpus_per_task > 1:
        raise ConfigError(
            f"--gpus-per-task {resources.gpus_per_task}: a rank uses one GPU, so give 1 and as many tasks as GPUs"
        )
    if resources.seconds < 1:
        raise ConfigError(f"--time {resources.time} is no time at all: give the limit of one session, such as 01:00:00")
    return resources


def execute(args: argparse.Namespace, session: Session) -> None:
    """Check what can be checked without the nodes, write the script, submit it; one rank does it."""
    session.on_root(lambda: _submit(args, session))


def _submit(args: argparse.Namespace, session: Session) -> None:
    if args.restart != restart.AUTO:
        raise ConfigError(
            f"--restart {args.restart} cannot be repeated after a requeue: leave it out, and start such a run with "
            "`hpc-holstein run` until its first checkpoint"
        )
    config = configuration(args)
    resources = resources_of(args)
    require_dynamics(config)
    require_ranks(config, resources)
    if not args.dry_run:
        slurm.require_slurm()
    folder = _named(Path(config.output.folder))
    path, summary = folder.with_name(f"{folder.name}.sbatch"), folder / "summary.json"
    script = Script(
        origin=f"`hpc-holstein submit` for {folder}",
        name=folder.name,
        log=folder,
        folder=Path.cwd(),
        resources=resources,
        site=load_site(gpus=resources.gpus_per_task > 0),
        work=command("hpc-holstein", "run", *_words(args)),
        summary=command(summary),
    )
    end_no_more()  # a job that is submitted is told
    script.write(path)
    session.say(f"wrote {path}")
    if args.dry_run:
        session.say(f"nothing is submitted; to do so: {command('sbatch', path)}")
        return
    job = slurm.submit(path)
    watched = [folder.with_name(f"{folder.name}-{job}.out"), folder / "trajectory.h5", summary]
    session.say(f"job {job} is submitted\nwatch {', '.join(map(str, watched))}\nend it with scancel {job}")


def _named(folder: Path) -> Path:
    """The folder by a name that files beside it can have, too."""
    folder = folder.resolve() if folder.name in ("", "..") else folder
    if not folder.name:
        raise ConfigError("output.folder = '/' has no folder above it for the script: give one that has, with --output")
    return folder


def _words(args: argparse.Namespace) -> list[Path | str]:
    """The arguments of ``run`` that say the same as those of ``submit``."""
    words: list[Path | str] = [args.config] if args.config is not None else []
    if args.preset is not None:
        words += ["--preset", args.preset]
    for key, value in overrides(args).items():
        plain = isinstance(value, str) and parse_assignment(f"{key}={value}")[1] == value
        words += ["--set", f"{key}={value if plain else json.dumps(value)}"]
    if args.max_walltime is not None:
        seconds = int(args.max_walltime)
        words += ["--max-walltime", f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"]
    return words


def require_ranks(config: Config, resources: Resources) -> None:
    """Raise DomainError where the lattice has no room for the ranks, ConfigError where device and GPUs contradict."""
    if config.parallel.grid is not None:
        check_grid(config.parallel.grid, resources.ranks, config.lattice.extent)
    else:
        choose_grid(resources.ranks, config.lattice.extent)
    wanted, device = resources.gpus_per_task > 0, config.parallel.device
    if wanted and device == "cpu":
        raise ConfigError("parallel.device = 'cpu' leaves the GPUs of the job idle: use auto, or --gpus-per-task 0")
    if not wanted and device.startswith("cuda"):
        raise ConfigError(f"parallel.device = '{device}' needs GPUs and the job asks for none: give --gpus-per-task 1")
