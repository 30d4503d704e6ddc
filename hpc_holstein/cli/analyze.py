"""``hpc-holstein analyze``: figures and numbers of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpc_holstein.cli.session import Session
from hpc_holstein.cli.watching import watch
from hpc_holstein.config import config_of_text
from hpc_holstein.config.builders import build_system
from hpc_holstein.config.same_run import identity
from hpc_holstein.files import require_writable
from hpc_holstein.output.analysis import digest, frames, length_in_words, order_frames, state_of
from hpc_holstein.output.derived import Derived, Made
from hpc_holstein.output.hdf5 import open_trajectory, trajectory_of
from hpc_holstein.output.xdmf import write_xdmf

_FIGURES = ("cdw_maps.png", "domain_growth.png", "energies.png", "structure_factor.png", "correlations.png")
_FILM_FRAMES = 240


def execute(args: argparse.Namespace, session: Session) -> None:
    """Read, compute, draw; one rank does it."""
    session.on_root(lambda: _execute(args, session))


def _execute(args: argparse.Namespace, session: Session) -> None:
    if args.watch:
        source = trajectory_of(args.run)
        watch(source.parent, source, session.say)
        return
    if args.xdmf:
        _write_xdmf(args, session)
    if args.animate is not None:
        _animate(args, session)
    if not args.xdmf and args.animate is None:
        _analyze(args, session)


def _write_xdmf(args: argparse.Namespace, session: Session) -> None:
    source = trajectory_of(args.run)
    path = source.with_suffix(".xdmf")
    with open_trajectory(source) as trajectory:
        write_xdmf(path, trajectory)
        session.say(f"wrote {path} with {len(trajectory)} snapshots: open it with the reader XDMF of ParaView")


def _animate(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.output import plots_animation  # as in _analyze

    source = trajectory_of(args.run)
    path = args.animate if args.animate.name else (args.output or source.parent / "analysis") / "order.gif"
    plots_animation.require_film(path)
    require_writable(path)
    with open_trajectory(source) as trajectory:
        lattice = build_system(config_of_text(trajectory.config)).lattice
        count = plots_animation.order_film(path, order_frames(trajectory, lattice, _FILM_FRAMES))
    session.say(f"wrote {path} with {count} frames")


def _analyze(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.output import plots  # here, so that runs on many ranks do not wait for matplotlib

    source = trajectory_of(args.run)
    folder = args.output or source.parent / "analysis"
    maps, growth, energies, structure, correlations = (folder / name for name in _FIGURES)
    numbers = folder / "analysis.json"
    with open_trajectory(source) as trajectory:
        made = Made(
            "analyze", identity(trajectory.config, trajectory.attributes), {"frames": args.frames}, state_of(trajectory)
        )
        result = Derived(numbers, [maps, growth, energies, structure, correlations], made)
        if result.is_up_to_date():
            session.say(f"{numbers} is up to date: {source} has {len(trajectory)} snapshots and has not changed")
            return
        config = config_of_text(trajectory.config)
        chosen, series = frames(trajectory, build_system(config).lattice, args.frames), trajectory.series()
        content = digest(trajectory, chosen)

    def draw() -> list[Path]:
        plots.order_maps(maps, chosen)
        plots.domain_growth(growth, series)
        plots.energies_and_temperature(energies, series, config.ensemble.kT)
        plots.structure_factor(structure, chosen)
        plots.correlations(correlations, chosen)
        return [maps, growth, energies, structure, correlations]

    result.write(content, draw)
    session.say(f"{content['snapshots']} snapshots up to step {content['steps']}")
    for time, scalars in zip(chosen.times, chosen.scalars, strict=True):
        session.say(
            f"t = {time:>8g} hbar/t_nn  order parameter {scalars['order_parameter']:.4f}  "
            f"domain length {length_in_words(scalars['domain_length_half_height'])}"
        )
    session.say(f"wrote {numbers} and {len(_FIGURES)} figures beside it")
