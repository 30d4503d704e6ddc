"""``hpc-holstein pipeline``: label, train, run and analyze as Slurm jobs that wait for each other."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from hpc_holstein.batch import slurm, submissions
from hpc_holstein.batch.script import Resources
from hpc_holstein.batch.stages import stage_script
from hpc_holstein.batch.study import STAGES, Study
from hpc_holstein.batch.submissions import Item, Submitted
from hpc_holstein.cli.arguments import add_resources
from hpc_holstein.cli.options import Parser, configuration, force_overrides
from hpc_holstein.cli.session import Session
from hpc_holstein.cli.submit import require_ranks, resources_of
from hpc_holstein.config import config_of_text
from hpc_holstein.config.builders import require_dynamics
from hpc_holstein.errors import ConfigError
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.stop_signals import end_no_more

_STATES = ("done", "running", "waiting", "failed", "missing")
_ABSENT = ("failed", "missing")


def execute(args: argparse.Namespace, session: Session) -> None:
    """One rank does it."""
    session.on_root(lambda: _execute(args, session))


def _execute(args: argparse.Namespace, session: Session) -> None:
    study = Study(configuration(args))
    if args.status:
        slurm.require_slurm()
        found = submissions.survey(study, submissions.read(study.submitted), slurm.live_jobs())
        session.say(_status(study, found))
    else:
        _submit_missing(study, session, args.dry_run)


def _submit_missing(study: Study, session: Session, dry_run: bool) -> None:
    """Everything that is neither there nor queued, each stage behind the one before it."""
    resources = {stage: _resources(study, stage) for stage in STAGES}
    _require_valid(study, resources)
    if not dry_run:
        slurm.require_slurm()
    end_no_more()  # no job is submitted and then not noted
    with FolderLock(study.folder) as lock:
        lock.acquire()
        study.claim()
        submitted = submissions.read(study.submitted)
        found = submissions.survey(study, submitted, {} if dry_run else slurm.live_jobs())
        wanted = {stage: [item.name for item in items if item.state in _ABSENT] for stage, items in found.items()}
        for stage in STAGES:
            if wanted[stage]:
                script = study.script(stage)
                stage_script(study, stage, wanted[stage], resources[stage]).write(script)
                session.say(f"{stage:<8} {', '.join(wanted[stage])}: {script}")
        if dry_run:
            session.say("nothing is submitted: leave --dry-run out to do so")
        elif any(wanted.values()):
            _submit(study, found, wanted, submitted, session)
        else:
            session.say("nothing is missing")
            session.say(_status(study, found))


def _submit(
    study: Study, found: dict[str, list[Item]], wanted: dict[str, list[str]], submitted: list[Submitted], session: Session
) -> None:
    """Each stage with a job that waits for what it needs; every job is noted as soon as it is there."""
    study.logs.mkdir(exist_ok=True)  # Slurm makes no folders
    before: list[Item] = []
    for stage in STAGES:
        items = found[stage]
        if wanted[stage]:
            options = submissions.dependency(before, submitted)
            new = Submitted(stage, slurm.submit(study.script(stage), options), study.tasks(stage, wanted[stage]))
            submitted.append(new)
            submissions.write(study.submitted, submitted)
            session.say(" ".join([f"{stage:<8} job {new.job}", *options[:1]]))
            items = [Item(item.name, "waiting", new.slurm_id(item.name)) if item.name in new.tasks else item for item in items]
        before = items
    session.say("see how they are with --status")


def _resources(study: Study, stage: str) -> Resources:
    """Resources of each job of a stage."""
    key = f"{stage}_resources"
    parser = Parser(prog="hpc-holstein submit", add_help=False)
    add_resources(parser)
    try:
        return resources_of(parser.parse_args(shlex.split(getattr(study.config.pipeline, key))))
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"pipeline.{key}: {error}") from None


def _require_valid(study: Study, resources: Mapping[str, Resources]) -> None:
    """Raise now what scripts and jobs would raise: unknown providers, no ground state, a lattice without room for the ranks."""
    for key in ("label_force", "path_force"):
        try:
            config_of_text(study.config.toml(), force_overrides(getattr(study.config.pipeline, key)))
        except ConfigError as error:
            raise ConfigError(f"pipeline.{key}: {error}") from None
    require_dynamics(study.config)
    require_ranks(study.config, resources["run"])
    for stage in STAGES:
        stage_script(study, stage, study.items(stage), resources[stage]).text()


def _status(study: Study, found: Mapping[str, Sequence[Item]]) -> str:
    """A line a stage, a line for each thing that runs or failed, and where to look."""
    lines = []
    for stage, items in found.items():
        counts = Counter(item.state for item in items)
        told = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
        lines.append(f"{stage:<8} {told} (of {len(items)})")
        lines += [_line(study, stage, item) for item in items if item.state in ("running", "failed")]
        lines += _waiting([item for item in items if item.state == "waiting"])
    if any(item.state in _ABSENT for items in found.values() for item in items):
        lines.append("the same command without --status submits what failed or is missing")
    return "\n".join(lines)


def _line(study: Study, stage: str, item: Item) -> str:
    """Description of one item that runs or failed."""
    log = study.log(stage, str(item.job))
    if item.live is not None:
        return f"  {item.name} runs on {item.live.place} since {item.live.elapsed}: {log}"
    if not log.exists():
        return f"  {item.name} failed: job {item.job} ended before it began, as a job does whose data cannot come"
    words = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in words if "error:" in line.lower()]
    own = [line for line in errors if not line.startswith(("srun:", "slurmstepd:"))]  # these say that there was one, not which
    return f"  {item.name} failed, see {log}: {(own or errors or words or ['it is empty'])[-1].strip()}"


def _waiting(items: Sequence[Item]) -> list[str]:
    """The jobs that have not started, and why."""
    jobs = {str(item.job).partition("_")[0]: item.live.place for item in items if item.live is not None}
    return [f"  job {job} waits: {place.strip('()')}" for job, place in jobs.items()]
