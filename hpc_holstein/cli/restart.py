"""Start of a run: at its beginning, or at a checkpoint of the run that is in the folder already."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config
from hpc_holstein.config.same_run import require_same_run
from hpc_holstein.domain.transport import agreed
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import refuse_existing, require_writable
from hpc_holstein.interfaces import State
from hpc_holstein.output import checkpoint
from hpc_holstein.output.checkpoint import Checkpoint
from hpc_holstein.output.summary import finished
from hpc_holstein.simulation import Simulation, Totals
from hpc_holstein.storage.segments import folder_of
from hpc_holstein.storage.shares import writers_of
from hpc_holstein.storage.trajectory import opened
from hpc_holstein.storage.whole_files import IDENTITY
from hpc_holstein.storage.writer import Storage, TrajectoryWriter, discard

AUTO, NEVER = "auto", "never"


class Folder:
    """The files of a run in the folder ``path``.

    trajectory, segments   snapshots and observables; folder of the fields while the run goes on
    summary                written at the end and at a stop
    collected              states at which the network was not trusted
    checkpoints, stop      folder of the checkpoints; a file whose presence ends the run
    """

    def __init__(self, path: Path) -> None:
        self.path, self.trajectory, self.summary = path, path / "trajectory.h5", path / "summary.json"
        self.segments, self.collected = folder_of(self.trajectory), path / "collected.h5"
        self.checkpoints, self.stop = path / "checkpoints", path / "STOP"


@dataclass(frozen=True)
class Start:
    """Start of a run; the same on all ranks but for ``stored``, which the root has.

    step       None: a new run
    stored     the checkpoint
    account    of it
    own        it lies in the folder of this run
    finished   nothing is left to do
    run        what all files of the run carry, and no others
    told       sentences for the user
    """

    step: int | None = None
    stored: Checkpoint | None = None
    account: dict[str, float] | None = None
    own: bool = True
    finished: bool = False
    run: str = ""
    told: tuple[str, ...] = ()

    def totals(self) -> Totals:
        """Totals of the sessions before this one."""
        known = {field.name for field in fields(Totals)}
        return Totals(**{name: value for name, value in (self.account or {}).items() if name in known})  # type: ignore[arg-type]

    def health(self) -> dict[str, float]:
        """Energies that the health of the run is measured against."""
        known = ("energy_scale", "electron_number", "electron_drift")
        return {name: value for name, value in (self.account or {}).items() if name in known}


def find(config: Config, restart: str, folder: Folder, session: Session) -> Start:
    """The start that ``restart`` (auto, never, or a path) asks for; collective.

    Raises DataError where files would be overwritten or no checkpoint is whole, ConfigError where it belongs to another run.
    """
    found: list[Start] = []  # with the checkpoint, which the root keeps

    def look() -> Start:
        found.append(_find(config, restart, folder))
        return replace(found[0], stored=None)

    shared = session.on_root(look)
    return found[0] if found else shared


def _find(config: Config, restart: str, folder: Folder) -> Start:
    """On the root."""
    if restart == NEVER:
        refuse_existing(*checkpoint.listed(folder.checkpoints))
    if restart == NEVER or (restart == AUTO and not checkpoint.listed(folder.checkpoints)):
        require_writable(folder.trajectory, folder.segments, folder.summary)
        return Start(run=uuid4().hex)
    path = folder.path if restart == AUTO else Path(restart)
    stored, told = _load(path)
    own = path.resolve() in _own_places(folder, stored.step)
    if not own:
        refuse_existing(folder.trajectory, folder.segments, folder.summary, *checkpoint.listed(folder.checkpoints))
    source = checkpoint.path_of(folder.checkpoints, stored.step) if own else path
    require_same_run(config, stored.attributes, source)
    if stored.step > config.dynamics.steps:
        raise ConfigError(
            f"dynamics.steps = {config.dynamics.steps} lies before step {stored.step}, where the run of {source} is already: "
            "ask for at least as many, or choose another output with --output"
        )
    if own and stored.step and not folder.trajectory.exists():
        told.append(f"{folder.trajectory} is not there: a new one starts at step {stored.step}")
    if own:
        _require_own_trajectory(config, folder)
    run = (_identity(folder, stored) if own else None) or uuid4().hex
    done = own and stored.step == config.dynamics.steps and finished(folder.path, config.dynamics.steps, config.dynamics.seed)
    return Start(stored.step, stored, stored.account, own, done, run, tuple(told))


def _identity(folder: Folder, stored: Checkpoint) -> str | None:
    """The run that the files of a folder are of, None if they are too old to say it; DataError for a file of another run.

    The trajectory decides, else the checkpoint that the run is to go on from.
    """
    told = {path: checkpoint.identity(path) for path in (folder.trajectory, *checkpoint.listed(folder.checkpoints))}
    run = told[folder.trajectory] or stored.attributes.get(checkpoint.IDENTITY)
    foreign = [str(path) for path, found in told.items() if run is not None and found not in (None, run)]
    if foreign:
        raise DataError(
            f"{', '.join(foreign)} is of another run than the rest of {folder.path}: move it away, or continue its run with "
            f"--restart {foreign[0]} --output and another folder"
        )
    return run


def _require_own_trajectory(config: Config, folder: Folder) -> None:
    """ConfigError for a trajectory of other settings; one that is too old to carry an identity says no more than these."""
    attributes: dict[str, Any] = {}
    with suppress(DataError), opened(folder.trajectory) as file:  # a damaged one is told when it is to be gone on with
        attributes = file.attributes()
    if IDENTITY not in attributes and "config" in attributes:
        require_same_run(config, attributes, folder.trajectory)


def _load(path: Path) -> tuple[Checkpoint, list[str]]:
    """The checkpoint ``path``, or the last whole one of the folder of a run or of its checkpoints; and what was passed over."""
    if path.is_file():
        return checkpoint.read(path), []
    inner = Folder(path).checkpoints
    stored, complaints = checkpoint.newest(inner if inner.is_dir() else path)
    if stored is None:
        raise DataError(f"--restart {path} holds no checkpoints: give auto, never, a checkpoint or the folder of a run")
    return stored, [f"{complaint.partition(':')[0]}: going on from step {stored.step}" for complaint in complaints]


def _own_places(folder: Folder, step: int) -> list[Path]:
    return [place.resolve() for place in (folder.path, folder.checkpoints, checkpoint.path_of(folder.checkpoints, step))]


def prepare(start: Start, folder: Folder) -> None:
    """On the root, before the first step of this session: nothing of later steps is in the folder."""
    if start.step is not None and start.own:
        checkpoint.clean(folder.checkpoints, after=start.step)
    else:
        require_writable(folder.trajectory, folder.segments, folder.summary)
    if not start.step:  # nothing is in a trajectory that starts again
        discard(folder.trajectory, start.run)


def save_first(
    start: Start, state: State, folder: Folder, gathers: bool, config: Config, facts: dict[str, Any], simulation: Simulation
) -> None:
    """A checkpoint of the first step in the folder: from here on ``--restart auto`` continues, whenever the run is killed.

    Collective; none is needed where the run goes on from one in the folder.
    """
    if start.step is not None and start.own:
        return
    stored = checkpoint.saved_state(folder.checkpoints, state, simulation.domain, simulation.transport, gathers)
    with agreed(simulation.transport):
        if stored is not None:
            stored = replace(stored, account={**(start.account or {}), "snapshots": 0, "rows": 0}, attributes=facts)
            checkpoint.write(folder.checkpoints, stored, config.output.checkpoints_kept)


def gathers(config: Config, simulation: Simulation) -> bool:
    """True if the root holds the whole lattice to write it."""
    return writers_of(config.output.writers, simulation.domain.lattice.sites, simulation.domain.size) == 1


def open_writer(
    start: Start, simulation: Simulation, folder: Folder, config: Config, facts: dict[str, Any]
) -> TrajectoryWriter:
    """The trajectory to write: that of the run without rows that come later, or a new one; collective.

    Raises DataError where the file is damaged or ends before the checkpoint.
    """
    run = (folder.trajectory, simulation.domain, simulation.transport, simulation.dt, config.parallel.torch_dtype)
    output = config.output
    storage = Storage(output.compression, output.writers, output.pack, simulation.hamiltonian.components)
    there = simulation.transport.bcast(folder.trajectory.exists())
    if not (start.step and start.own and there):
        return TrajectoryWriter(*run, facts, storage)
    account = start.account or {}
    least = int(account["snapshots"]), int(account["rows"])
    told = {"config": config.toml(), IDENTITY: start.run}
    return TrajectoryWriter.continued(*run, start.step, told, storage, least)
