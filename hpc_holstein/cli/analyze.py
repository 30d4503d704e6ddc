"""``hpc-holstein analyze``: figures and numbers of a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, config_of_text
from hpc_holstein.config.builders import build_system
from hpc_holstein.config.observables import recorded
from hpc_holstein.config.same_run import identity
from hpc_holstein.errors import ConfigError
from hpc_holstein.files import require_writable
from hpc_holstein.interfaces import Hamiltonian
from hpc_holstein.output.analysis import (
    MANY,
    digest,
    figure_names,
    frames,
    length_in_words,
    order_frames,
    state_of,
    write_numbers,
)
from hpc_holstein.output.derived import Derived, ResultOrigin
from hpc_holstein.output.order import Order
from hpc_holstein.output.xdmf import write_xdmf
from hpc_holstein.stop_signals import end_no_more
from hpc_holstein.storage.trajectory import Trajectory, open_trajectory, trajectory_of


def execute(args: argparse.Namespace, session: Session) -> None:
    """Read, compute, draw; one rank does it."""
    session.on_root(lambda: _execute(args, session))


def _execute(args: argparse.Namespace, session: Session) -> None:
    if args.xdmf:
        _write_xdmf(args, session)
    if args.animate is not None:
        _animate(args, session)
    if not args.xdmf and args.animate is None:
        _analyze(args, session)


def _system_of(trajectory: Trajectory) -> tuple[Config, Hamiltonian, list[Order]]:
    """The configuration and the Hamiltonian of a run, and the orders that it records."""
    config = config_of_text(trajectory.config)
    hamiltonian = build_system(config).hamiltonian
    return config, hamiltonian, recorded(config.observable, hamiltonian).orders


def _drawn_orders(orders: list[Order], hamiltonian: Hamiltonian) -> list[Order]:
    """Orders that fit the lattice, with domains."""
    return [order for order in orders if order.whole and not order.misfit(hamiltonian.lattice)]


def _write_xdmf(args: argparse.Namespace, session: Session) -> None:
    source = trajectory_of(args.run)
    path = source.with_suffix(".xdmf")
    with open_trajectory(source) as trajectory:
        _, hamiltonian, orders = _system_of(trajectory)
        write_xdmf(path, trajectory, hamiltonian, _drawn_orders(orders, hamiltonian))
        session.say(f"wrote {path} with {len(trajectory)} snapshots: open it with the reader XDMF of ParaView")


def _animate(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.output import plots_animation  # as in _analyze

    source = trajectory_of(args.run)
    path = args.animate if args.animate.name else (args.output or source.parent / "analysis") / "order.gif"
    plots_animation.require_film(path)
    require_writable(path)
    with open_trajectory(source) as trajectory:
        _, hamiltonian, orders = _system_of(trajectory)
        drawn = _drawn_orders(orders, hamiltonian)
        if not drawn:
            raise ConfigError(f"the run in {source.parent} records no order to film: give one as [[observable]]")
        found = order_frames(trajectory, hamiltonian, drawn[0], MANY)
        count = plots_animation.order_film(path, hamiltonian.lattice, drawn[0], found)
    session.say(f"wrote {path} with {count} frames")


def _analyze(args: argparse.Namespace, session: Session) -> None:
    from hpc_holstein.output import plots_run  # here, so that runs on many ranks do not wait for matplotlib

    source = trajectory_of(args.run)
    folder = args.output or source.parent / "analysis"
    numbers, arrays = folder / "analysis.json", folder / "analysis.h5"
    with open_trajectory(source) as trajectory:
        config, hamiltonian, orders = _system_of(trajectory)
        drawn = _drawn_orders(orders, hamiltonian)
        figures = [folder / name for name, _, _ in figure_names(drawn, hamiltonian.lattice)]
        made = ResultOrigin(
            "analyze", identity(trajectory.config, trajectory.attributes), {"frames": args.frames}, state_of(trajectory)
        )
        result = Derived(numbers, [*figures, arrays], made)
        if result.is_up_to_date():
            session.say(f"{numbers} is up to date: {source} has {len(trajectory)} snapshots and has not changed")
            return
        chosen = frames(trajectory, hamiltonian, orders, config.ensemble.kT, args.frames)
        content = digest(trajectory, chosen)

    def draw() -> list[Path]:
        write_numbers(arrays, chosen)
        return [*plots_run.draw(folder, chosen), arrays]

    end_no_more()
    result.write(content, draw)
    session.say(f"{content['snapshots']} snapshots up to step {content['steps']}")
    session.say_all(chosen.left_out)
    for time, scalars in zip(chosen.times, chosen.scalars, strict=True) if drawn else ():
        session.say("  ".join([f"t = {time:>8g} hbar/t_nn", *(_in_words(order, scalars) for order in drawn)]))
    session.say(f"wrote {numbers}, {arrays.name} and {len(figures)} figures beside it")


def _in_words(order: Order, scalars: Mapping[str, float]) -> str:
    length = scalars.get(order.scalar("domain_length_half_height"))
    told = "" if length is None else f"  domain length {length_in_words(length)}"
    return f"order parameter{' ' if order.name else ''}{order.name} {scalars[order.scalar('order_parameter')]:.4f}{told}"
