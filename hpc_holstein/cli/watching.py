"""A live summary of a run that goes on in another process."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpc_holstein.config import Config, config_of_text
from hpc_holstein.errors import DataError
from hpc_holstein.output.hdf5 import open_trajectory
from hpc_holstein.output.live import Pulse, Status, status
from hpc_holstein.simulation import clock

_PAUSE = 1.0  # seconds between two looks

Show = Callable[[list[str]], None]


def watch(folder: Path, trajectory: Path, say: Callable[[str], None], pause: float = _PAUSE) -> None:
    """Show the run in ``folder`` until it ends, or until Ctrl-C.

    On a terminal a few lines that are drawn anew, otherwise one line for each change.  Raises DataError where there is no run.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: give the folder of a run")
    pulse, show = Pulse(folder, trajectory), _block(say) if _is_terminal() else _lines(say)
    shown: list[str] = []
    try:
        while True:
            ended = pulse.end()  # before the last look, which then finds everything
            found, config = _look(trajectory)
            lines = [] if found is None or config is None else _told(found, config)
            if lines != shown:
                show(lines)
                shown = lines
            if ended is not None:
                say(f"the run in {folder} {ended}")
                return
            time.sleep(pause)
    except KeyboardInterrupt:
        say("")


def _look(trajectory: Path) -> tuple[Status | None, Config | None]:
    """What is there; nothing before the first commit."""
    if not trajectory.is_file():
        return None, None
    try:
        with open_trajectory(trajectory) as opened:
            config = config_of_text(opened.config)
        return status(trajectory, config.dynamics.dt), config
    except DataError as error:
        if "holds no snapshots" in str(error):
            return None, None
        raise


def _told(found: Status, config: Config) -> list[str]:
    """One line for each group of numbers."""
    steps = config.dynamics.steps
    left = (steps - found.step) / found.rate if found.rate > 0 else math.nan
    rate = f"{found.rate:.3g} steps/s, {found.rate * found.sites:.3g} site-steps/s" if found.rate > 0 else "rate not known yet"
    to_go = f", {clock(left)} to go" if math.isfinite(left) and found.step < steps else ""
    length = f"{found.length:.3g} a" if math.isfinite(found.length) else "not known"
    return [
        f"step {found.step}/{steps} ({100 * found.step / steps:.1f} %), {rate}{to_go}",
        f"kinetic temperature {found.temperature:.4g} t_nn, bath {config.ensemble.kT:g} t_nn",
        f"order parameter {found.order:.4f}, domain length {length}, electron number drift {found.drift:.1e} per site",
    ]


def _lines(say: Callable[[str], None]) -> Show:
    return lambda lines: say("; ".join(lines))


def _block(say: Callable[[str], None]) -> Show:
    """Drawn over what was shown before, cut to the width of the terminal."""
    shown = [0]

    def show(lines: list[str]) -> None:
        up = f"\x1b[{shown[0]}F" if shown[0] else ""
        width = os.get_terminal_size(sys.stdout.fileno()).columns or 80
        say(up + "\n".join(f"{line[: width - 1]}\x1b[K" for line in lines))
        shown[0] = len(lines)

    return show


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
