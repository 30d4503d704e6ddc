"""Many independent runs of one configuration at once: ranks = replicas x tiles.

Replica ``r`` is the run with seed ``dynamics.seed + r``, so that noise and random start are its own, in ``replica-000r`` of the
output folder, where it can be continued alone.  With fewer ranks than replicas, or a ``parallel.grid`` that makes fewer groups
of them, each group has several: these advance in lock step with one evaluation of the forces where the provider takes batches
(networks, ``atomic``), as many at a time as there is memory for; with other forces, one after another.

A file STOP in the output folder, a signal and the end of the time stop all replicas; STOP in the folder of one stops that one.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from greenlet import GreenletExit

from hpc_holstein.cli.restart import AUTO, NEVER, Folder
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, config_of_text
from hpc_holstein.config.sections import ParallelSection, require_seeds
from hpc_holstein.domain.partition import shown
from hpc_holstein.domain.transport import MPITransport, abort_all_on_error
from hpc_holstein.errors import ConfigError, HolsteinError
from hpc_holstein.files import replace_text
from hpc_holstein.output.summary import read_summary
from hpc_holstein.simulation import Lockstep, Simulation, StopSignals, most_together, require_memory

_USER_ERROR = 2
_FILES_OF_RUN, _OTHER_FILES = 4, 128  # 2 to 3 of a run are open
_SEVERITY = (os.EX_OK, os.EX_TEMPFAIL, _USER_ERROR)  # exit codes, the worst last
_TOLD = ["steps", "stopped", "wall_seconds", "site_steps_per_second", "runs_together"]
_TOLD += ["electron_number_drift", "observables", "trust"]


@dataclass
class ReplicaGroup:
    """The runs of one command on one group of ranks: what stops all of them, and what they compute together.

    ``stop_file``: besides that of each run; ``say``: prints on the first rank of the command.
    """

    signals: StopSignals
    lockstep: Lockstep[Outcome]
    say: Callable[[str], None]
    stop_file: Path | None = None
    _said: bool = False

    def admit(self, simulation: Simulation, config: Config, gathers: bool, session: Session) -> None:
        """Have the forces of a run computed with those of the others, if that pays; say so and what memory it takes.

        DomainError where even one does not fit.  Collective over the ranks of the run.
        """
        forces, wanted = simulation.forces, self.lockstep.wanted
        of_one = simulation.domain, session.transport, config.parallel.torch_dtype, forces, gathers
        several = wanted > 1 and session.transport.size > 1 and config.parallel.transport == "nccl"  # has one run at a time
        batched = wanted > 1 and forces.takes_batches and not several
        if self.lockstep.joined:
            simulation.together = self.lockstep.join(forces, simulation.transport)
            return
        with_files = min(session.transport.allgather(_runs_with_files()))
        components = simulation.hamiltonian.components
        most = most_together(*of_one, min(wanted, with_files), components) if batched else 1
        told = [require_memory(*of_one, most, components)]
        if batched:
            simulation.together = self.lockstep.join(forces, simulation.transport, most)
        if most > 1:
            fewer = "" if most == wanted else f" of {wanted}, as many as memory and open files allow,"
            told.append(f"{most} runs{fewer} advance together, with one evaluation of the forces for all")
        elif wanted > 1:
            why = f"{config.force.kind} forces take no batch" if not batched else "memory and open files allow one"
            told.append(f"{wanted} runs in turn, since {'nccl joins the ranks of one run' if several else why}")
        if not self._said:
            self.say("\n".join(told))
        self._said = True


def _runs_with_files() -> int:
    """Runs that can have their files open at one time."""
    return max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES) // _FILES_OF_RUN)


RunOne = Callable[[Config, Session, ReplicaGroup], int]


@dataclass(frozen=True)
class Outcome:
    """End of one replica; ``summary``: some of its summary.json."""

    replica: int
    seed: int
    folder: str
    exit_code: int
    error: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def run_all(config: Config, restart: str, session: Session, signals: StopSignals, run_one: RunOne) -> int:
    """Run all replicas of ``config``, and write replicas.json; the worst of their exit codes.  Collective."""
    replicas, size, rank = config.parallel.replicas, session.transport.size, session.transport.rank
    require_seeds("dynamics.seed", config.dynamics.seed, replicas, "parallel.replicas")
    groups = _groups(config.parallel, size)
    if restart not in (AUTO, NEVER):
        raise ConfigError(
            f"--restart {restart} is the start of one run and parallel.replicas = {replicas}: give auto or never, or continue "
            f"one replica alone with --output {_folder(config, 0)}"
        )
    tiles, each = size // groups, replicas // groups
    ranks = f"{tiles} rank{'s' if tiles > 1 else ''}"
    shares = f"{ranks} each" if each == 1 else f"{each} on {ranks}" + (f" in each of {groups} groups" if groups > 1 else "")
    session.say(
        f"{replicas} replicas, {shares}, seeds {config.dynamics.seed} to {config.dynamics.seed + replicas - 1}, "
        f"in {_folder(config, 0)} to {_folder(config, replicas - 1).name}; what follows is replica 0"
    )
    number = rank // tiles
    group = session.transport.split(number) if isinstance(session.transport, MPITransport) else session.transport
    company = ReplicaGroup(signals, Lockstep(each), session.say, Path(config.output.folder) / "STOP")
    mine = range(number * each, (number + 1) * each)
    sessions = {replica: replace(session, transport=group, quiet=replica != 0) for replica in mine}
    with abort_all_on_error(group):
        outcomes = company.lockstep.run([partial(_run, config, one, sessions[one], company, run_one) for one in mine])
    gathered = session.transport.allgather(outcomes if group.rank == 0 else [])
    return _close(config, [outcome for part in gathered for outcome in part], session)


def _groups(parallel: ParallelSection, size: int) -> int:
    """Groups of ranks that work side by side; ConfigError where the ranks cannot be shared out evenly."""
    replicas = parallel.replicas
    if parallel.grid is not None:
        tiles = prod(parallel.grid)
        groups = size // tiles
        if size % tiles or not groups or replicas % groups:
            raise ConfigError(
                f"parallel.grid = {shown(parallel.grid)} of each of parallel.replicas = {replicas} cannot share {size} ranks: "
                f"start {tiles} or {replicas * tiles} ranks, or give another grid"
            )
        return groups
    if size % replicas and replicas % size:
        fitting = [count for count in range(1, 2 * replicas + 1) if count % replicas == 0 or replicas % count == 0]
        near = sorted(fitting, key=lambda count: (abs(count - size), count))[:2]
        raise ConfigError(
            f"parallel.replicas = {replicas} cannot share {size} ranks evenly: start {min(near)} or {max(near)} ranks, or give "
            "a number of replicas that divides the ranks"
        )
    return min(replicas, size)


def _folder(config: Config, replica: int) -> Path:
    return Path(config.output.folder) / f"replica-{replica:04d}"


def _outcome(config: Config, replica: int, code: int, error: str | None = None) -> Outcome:
    """With what the summary of the replica says, where there is one."""
    folder = _folder(config, replica)
    content = read_summary(Folder(folder).summary) or {}
    summary = {name: content[name] for name in _TOLD if name in content}
    return Outcome(replica, config.dynamics.seed + replica, str(folder), code, error, summary)


def _run(config: Config, replica: int, session: Session, company: ReplicaGroup, run_one: RunOne) -> Outcome:
    """One replica on its ranks; its user error ends it alone.  When all are to stop, none starts."""
    if company.signals.stopped:
        return _outcome(config, replica, os.EX_TEMPFAIL)
    changes = {"dynamics.seed": config.dynamics.seed + replica, "output.folder": str(_folder(config, replica))}
    try:
        with abort_all_on_error(session.transport):
            try:
                code = run_one(config_of_text(config.toml(), {**changes, "parallel.replicas": 1}), session, company)
            except GreenletExit:  # another one has failed in a way that ends the command
                code = os.EX_TEMPFAIL
        return _outcome(config, replica, code)
    except HolsteinError as error:
        return _outcome(config, replica, _USER_ERROR, str(error))


def _close(config: Config, outcomes: list[Outcome], session: Session) -> int:
    """Say how they ended, and write it down; collective."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(errors) == len(outcomes) and len(set(errors)) == 1:
        raise ConfigError(errors[0])
    path = Path(config.output.folder) / "replicas.json"

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"replicas": [asdict(outcome) for outcome in outcomes]}
        replace_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        (path.parent / "STOP").unlink(missing_ok=True)  # honoured: the same command goes on

    session.on_root(write)
    session.say("\n".join([*map(_line, outcomes), f"wrote {path}"]))
    return max((outcome.exit_code for outcome in outcomes), key=_SEVERITY.index)


def _line(outcome: Outcome) -> str:
    found = outcome.summary
    if outcome.error is not None:
        state = f"error: {outcome.error}"
    elif not found:
        state = "not started"
    else:
        order = found["observables"].get("order_parameter")
        state = f"{found['steps']} steps, order parameter {order:.4f}" if order is not None else f"{found['steps']} steps"
        state += f", stopped because {found['stopped']}" if found["stopped"] else ""
    return f"replica {outcome.replica} (seed {outcome.seed}): {state}"
