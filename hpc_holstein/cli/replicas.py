"""Many independent runs of one configuration at once: ranks = replicas x tiles.

Replica ``r`` is the run with seed ``dynamics.seed + r``, so that noise and random start are its own, in ``replica-000r`` of the
output folder, where it can be continued alone.  With fewer ranks than replicas each rank runs several, one after another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hpc_holstein.cli.restart import AUTO, NEVER, Folder
from hpc_holstein.cli.session import Session
from hpc_holstein.config import Config, config_of_text
from hpc_holstein.domain.transport import MPITransport, abort_all_on_error
from hpc_holstein.errors import ConfigError, HolsteinError
from hpc_holstein.files import replaced

_USER_ERROR = 2
_SEVERITY = (os.EX_OK, os.EX_TEMPFAIL, _USER_ERROR)  # exit codes, the worst last
_TOLD = ("steps", "stopped", "wall_seconds", "site_steps_per_second", "electron_number_drift", "observables")

RunOne = Callable[[Config, Session], int]


@dataclass(frozen=True)
class Outcome:
    """How one replica ended; ``summary``: some of its summary.json."""

    replica: int
    seed: int
    folder: str
    exit_code: int
    error: str | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def run_all(config: Config, restart: str, session: Session, run_one: RunOne) -> int:
    """Run all replicas of ``config``, and write replicas.json; the worst of their exit codes.  Collective."""
    replicas, size, rank = config.parallel.replicas, session.transport.size, session.transport.rank
    groups = _groups(replicas, size)
    if restart not in (AUTO, NEVER):
        raise ConfigError(
            f"--restart {restart} is the start of one run and parallel.replicas = {replicas}: give auto or never, or continue "
            f"one replica alone with --output {_folder(config, 0)}"
        )
    tiles, each = size // groups, replicas // groups
    shares = f"{tiles} rank{'s' if tiles > 1 else ''} each" if each == 1 else f"{each} on each of {groups} ranks in turn"
    session.say(
        f"{replicas} replicas, {shares}, seeds {config.dynamics.seed} to {config.dynamics.seed + replicas - 1}, "
        f"in {_folder(config, 0)} to {_folder(config, replicas - 1).name}; what follows is replica 0"
    )
    number = rank // tiles
    group = session.transport.split(number) if isinstance(session.transport, MPITransport) else session.transport
    outcomes = []
    for replica in range(number * each, (number + 1) * each):
        mine = replace(session, transport=group, quiet=replica != 0)
        outcomes.append(_run(config, replica, mine, run_one))
        if outcomes[-1].exit_code == os.EX_TEMPFAIL:  # asked to stop: the rest is for the next time
            outcomes += [_outcome(config, later, os.EX_TEMPFAIL) for later in range(replica + 1, (number + 1) * each)]
            break
    gathered = session.transport.allgather(outcomes if group.rank == 0 else [])
    return _close(config, [outcome for part in gathered for outcome in part], session)


def _groups(replicas: int, size: int) -> int:
    """Groups of ranks that work side by side; ConfigError where the ranks cannot be shared out evenly."""
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
    try:
        content = json.loads(Folder(folder).summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = {}
    summary = {name: content[name] for name in _TOLD if name in content}
    return Outcome(replica, config.dynamics.seed + replica, str(folder), code, error, summary)


def _run(config: Config, replica: int, session: Session, run_one: RunOne) -> Outcome:
    """One replica on its ranks; its user error ends it alone."""
    changes = {"dynamics.seed": config.dynamics.seed + replica, "output.folder": str(_folder(config, replica))}
    try:
        with abort_all_on_error(session.transport):
            code = run_one(config_of_text(config.toml(), {**changes, "parallel.replicas": 1}), session)
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
        with replaced(path) as temporary:
            content = {"replicas": [asdict(outcome) for outcome in outcomes]}
            temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

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
