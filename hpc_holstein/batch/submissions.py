"""Submissions of a study: what has become of them, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_holstein.batch.slurm import LiveJob
from hpc_holstein.batch.study import STAGES, Study
from hpc_holstein.errors import DataError
from hpc_holstein.files import replace_text


@dataclass(frozen=True)
class Submitted:
    """One call of sbatch: the items that a job makes, and the task of its array that makes each (None: no array)."""

    stage: str
    job: int
    tasks: dict[str, int | None]

    def slurm_id(self, item: str) -> str:
        """Number of the job, or of the task, of an item as ``squeue`` writes it."""
        task = self.tasks[item]
        return str(self.job) if task is None else f"{self.job}_{task}"


def read(path: Path) -> list[Submitted]:
    """All submissions of a study, the oldest first."""
    if not path.exists():
        return []
    try:
        return [Submitted(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it when no job of the study is queued") from None


def write(path: Path, submitted: Sequence[Submitted]) -> None:
    """Store them."""
    replace_text(path, json.dumps([vars(one) for one in submitted], indent=1) + "\n")


@dataclass(frozen=True)
class Item:
    """One thing that a study makes.

    state   done, running, waiting, failed (its job ended without it), or missing (never submitted)
    job     the last that was submitted for it, as Slurm writes it; None: never submitted
    live    what Slurm says of that job
    """

    name: str
    state: str
    job: str | None = None
    live: LiveJob | None = None


def survey(study: Study, submitted: Sequence[Submitted], live: Mapping[str, LiveJob]) -> dict[str, list[Item]]:
    """Stage -> its items and their states."""
    return {stage: [_item(study, stage, name, submitted, live) for name in study.items(stage)] for stage in STAGES}


def _item(study: Study, stage: str, name: str, submitted: Sequence[Submitted], live: Mapping[str, LiveJob]) -> Item:
    jobs = [one.slurm_id(name) for one in submitted if one.stage == stage and name in one.tasks]
    job = jobs[-1] if jobs else None
    found = live.get(job) if job is not None else None
    if study.done(stage, name):
        return Item(name, "done", job)
    if found is not None:
        return Item(name, "waiting" if found.waiting else "running", job, found)
    return Item(name, "failed" if job is not None else "missing", job)


def dependency(items: Sequence[Item], submitted: Sequence[Submitted]) -> list[str]:
    """Options of sbatch for a job that needs ``items``, some of which are still being made."""
    needed = {item.job for item in items if item.state in ("waiting", "running")}
    ids: list[str] = []
    for one in submitted:
        tasks = {one.slurm_id(name) for name in one.tasks}
        ids += [str(one.job)] if tasks <= needed else sorted(tasks & needed)
    return [f"--dependency=afterok:{':'.join(ids)}", "--kill-on-invalid-dep=yes"] if ids else []
