"""``hpc-holstein bench``: how fast this machine runs the package, and how many ranks are worth asking for."""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from hpc_holstein.bench import guard, kernels, record, writers
from hpc_holstein.bench.epochs import measure_epochs
from hpc_holstein.bench.record import Record
from hpc_holstein.bench.report import Report
from hpc_holstein.bench.step import How, measure_step
from hpc_holstein.cli.options import (
    default_preset,
    force_overrides,
    overrides,
    require_one_run,
)
from hpc_holstein.cli.session import Session, require_launcher
from hpc_holstein.config import Config, fit_options, load_config
from hpc_holstein.config.builders import model_facts
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import replaced, require_writable

_FAILED = 1
_LEAST_REPEATS = 3
_LATTICE = {"step": [512, 512], "training": [40, 40]}
_TILE = {"step": [256, 256], "training": [40, 40]}


def execute(args: argparse.Namespace, session: Session) -> int:
    """One point, or the report of many; returns the exit code."""
    if args.what == "report":
        session.on_root(lambda: _report(args, session))
        return os.EX_OK
    require_launcher(session.transport)
    if args.repeats < _LEAST_REPEATS:
        raise ConfigError(f"--repeats {args.repeats} tell no spread: give {_LEAST_REPEATS} or more")
    if args.output is None and args.guard is None:
        raise ConfigError(f"bench {args.what} has nowhere to write: give --output FOLDER, or --guard RECORD to compare with")
    _require_meaning(args)
    then = _guarded(args, session)
    config = _config(args, session)
    path = None if args.output is None else args.output / _file_name(args, config, session.transport.size)
    if path is not None and getattr(args, "skip_existing", False) and session.transport.bcast(path.exists()):
        session.say(f"{path} is there already")
        return os.EX_OK
    session.on_root(lambda: None if path is None else require_writable(path))
    device = session.use(config.parallel.threads, config.parallel.device)
    machine = session.transport.bcast(_machine(session, device))
    found = _measured(args, config, session, device)
    setting = {**_common(args, config, session), **found.get("setting", {})}
    made = Record(args.what, machine, setting, found["result"])
    session.on_root(lambda: None if path is None else made.write(path))
    for line in _closing(made, path):
        session.say(line)
    return _judged(made, then, args, session)


def _require_meaning(args: argparse.Namespace) -> None:
    """Raise ConfigError for an option that would do nothing."""
    if getattr(args, "of", "step") == "training":
        for option, value in {"steps": args.time_steps, "grid": args.grid, "force": args.force, "dtype": args.dtype}.items():
            if value is not None:
                raise ConfigError(f"--{option} has no meaning with --of training: leave it out, or set keys of [training]")
    if args.what == "kernels" and args.force and not args.force.endswith(".safetensors"):
        raise ConfigError(
            f"--force {args.force} has no meaning for bench kernels, which measures KPM, PETSc and a network: give a "
            "model file *.safetensors, or leave it out"
        )


def _measured(args: argparse.Namespace, config: Config, session: Session, device: str) -> dict[str, Any]:
    transport = session.transport
    if args.what == "kernels":
        sizes = kernels.Sizes.on(device, args.quick)
        return {"result": kernels.measure_kernels(config, transport, device, args.repeats, sizes, session.say)}
    if args.what != "io" and args.of == "training":
        batch = max(4, fit_options(config).batch) * (transport.size if args.what == "weak" else 1)
        return measure_epochs(config, transport, device, batch, args.repeats, args.warm_up or 1)
    with _scratch(args.output or Path(), session) as folder:
        if args.what == "io":
            return writers.measure_writers(config, transport, device, args.repeats, folder, session.say)
        return measure_step(config, transport, device, _how(args), folder, session.say)


def _how(args: argparse.Namespace) -> How:
    default = How()
    return How(args.time_steps or default.steps, args.repeats, args.warm_up or default.warm_up)


def _config(args: argparse.Namespace, session: Session) -> Config:
    """The configuration with the lattice of this point."""
    given = {**(force_overrides(args.force) if getattr(args, "force", None) else {}), **overrides(args)}
    of = getattr(args, "of", "step")
    if args.what == "weak":
        grid = args.grid if args.grid and of == "step" else kernels.tile_grid(session.transport.size)
        tile = args.lattice_per_rank or _TILE[of]
        given["parallel.grid"] = list(grid) if of == "step" else None
        given["lattice.extent"] = [n * parts for n, parts in zip(tile, grid, strict=True)] if of == "step" else tile
    elif "lattice.extent" not in given and args.config is None:
        given["lattice.extent"] = _LATTICE[of]
    config = load_config(args.config, default_preset(args), given)
    require_one_run(config, "bench", "")
    return config


def _file_name(args: argparse.Namespace, config: Config, ranks: int) -> str:
    if args.what == "kernels":
        return f"kernels-{ranks}.json"
    extent = config.lattice.extent
    if args.what == "io":
        return f"io-{shown(extent)}-{ranks}.json"
    if args.of == "training":
        return f"{args.what}-training-{config.model.kind}-{shown(extent)}-{ranks}.json"
    grid = config.parallel.grid or ()
    tile = [n // parts for n, parts in zip(extent, grid, strict=True)] if args.what == "weak" else extent
    return f"{args.what}-{_force_name(config)}-{config.parallel.dtype}-{shown(tile)}-{ranks}.json"


def _force_name(config: Config) -> str:
    model = config.force.option_values.get("model", "default")
    return config.force.kind if config.force.kind != "neural" or model == "default" else Path(model).stem


def _machine(session: Session, device: str) -> dict[str, Any]:
    library = session.mpi_facts().get("mpi")
    return record.machine(device, session.hosts, os.cpu_count() or 1, None if library is None else str(library))


def _common(args: argparse.Namespace, config: Config, session: Session) -> dict[str, Any]:
    """What every record says of its setting."""
    training = getattr(args, "of", "step") == "training"
    common = {
        "ranks": session.transport.size,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "dtype": config.parallel.dtype,
    }
    if args.what == "kernels":
        return {**common, "quick": args.quick}
    if training:
        return {**common, "dtype": fit_options(config).dtype, "config": config.toml()}
    model = model_facts(config.force).get("model.sha256")
    how = asdict(_how(args)) if args.what != "io" else {}
    force = {"force": _force_name(config), "force_options": config.force.option_values, "model": model and model[:12]}
    return {**common, **how, **force, "deterministic": config.parallel.deterministic, "config": config.toml()}


def _guarded(args: argparse.Namespace, session: Session) -> Record | None:
    """The record to compare with, before any work."""
    path: Path | None = getattr(args, "guard", None)
    if path is None:
        return None
    if not args.factor >= 1:
        raise ConfigError(f"--factor {args.factor:g} would forbid what the record itself has: give 1 or more")
    then = record.read(path)
    empty = Record(args.what, {}, {"ranks": session.transport.size}, then.result)
    guard.compare(empty, then, args.factor)  # only whether they can be compared
    return then


def _judged(now: Record, then: Record | None, args: argparse.Namespace, session: Session) -> int:
    if then is None:
        return os.EX_OK
    worse = guard.compare(now, then, args.factor)
    for sentence in worse:
        session.say(f"worse: {sentence}")
    if not worse:
        session.say(f"no ratio is worse than {args.factor:g} times that of {args.guard}")
    return _FAILED if worse else os.EX_OK


@contextmanager
def _scratch(parent: Path, session: Session) -> Iterator[Path]:
    """A folder of all ranks in ``parent`` that is gone afterwards, and so is ``parent`` if it is new and nothing came of it.

    A signal that ends the work, as at the time limit of a job, is an interrupt meanwhile.
    """
    made: list[Path] = []
    new = session.is_root and not parent.exists()

    def make() -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            made.append(Path(tempfile.mkdtemp(prefix=".bench-", dir=parent)))
        except OSError as error:
            raise DataError(f"{parent} cannot be written ({error.strerror}): choose another folder with --output") from None

    session.on_root(make)
    ended = threading.current_thread() is threading.main_thread() and signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield session.transport.bcast(made[0] if made else Path())
    finally:
        if ended:
            signal.signal(signal.SIGTERM, ended)
        if made:
            rmtree(made[0], ignore_errors=True)
            if new:
                with suppress(OSError):
                    parent.rmdir()


def _closing(made: Record, path: Path | None) -> list[str]:
    """The point in a few lines."""
    lines = []
    if made.benchmark in ("strong", "weak"):
        seconds, rate = made.result["seconds"], made.result["site_steps_per_second"]["median"]
        unit = made.result["unit"]
        lines.append(
            f"{made.ranks} rank(s), {shown(made.setting['lattice'])}: {1e3 * seconds['median']:.4g} ms/{unit} "
            f"({1e3 * seconds['min']:.4g} to {1e3 * seconds['max']:.4g}), {rate:.3g} site-{unit}s/s"
        )
        split = [f"{name} {percent:.1f} %" for name, percent in made.shares.items()]
        lines += [", ".join(split)] * bool(split)
    return [*lines, *([f"wrote {path}"] if path else [])]


def _report(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.bench import figures  # here, so that measurements do not wait for matplotlib

    report = Report.of(record.read_folder(args.records))
    folder = args.output or args.records / "report"
    table = folder / "report.md"
    require_writable(table, *(folder / name for name in figures.names(report)))
    refused = next((fitted.refusal for fitted in report.fitted if fitted.model is None), "")
    if args.predict and not any(fitted.model for fitted in report.fitted):
        raise DataError(f"nothing can be predicted: {refused or 'there is no record of bench strong or weak here'}")
    text = report.markdown(args.predict)
    session.say(text)
    drawn = figures.draw(report, folder, args.predict)
    pictures = "".join(f"\n![{path.stem.replace('_', ' ')}]({path.name})\n" for path in drawn)
    with replaced(table) as temporary:
        temporary.write_text(text + pictures, encoding="utf-8")
    session.say(f"wrote {table} and {len(drawn)} figures beside it")
