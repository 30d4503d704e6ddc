"""Batch scripts as text that people can read, change and submit by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_holstein.batch.lines import TAB, command, comment, directive, log_pattern, printable, sbatch_words
from hpc_holstein.batch.site import Site, site_path
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.files import replace_text

MARK = "Written by hpc-holstein"
_WARNING_SECONDS = 120  # between USR1 and the time limit; a tenth of the limit where that is less
_UNITS = (86400, 3600, 60, 1)
_LONGEST = 60 * (2**32 - 3)  # seconds of the minutes that Slurm can count
_MOST = {"nodes": 10**6, "ntasks_per_node": 10**5, "cpus_per_task": 10**5, "max_requeues": 10**6}


@dataclass(frozen=True)
class Resources:
    """Resources that one job asks Slurm for; a rank is a task, and takes at most one GPU."""

    nodes: int = 1
    ntasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_task: int = 0
    time: str = "01:00:00"
    partition: str | None = None
    account: str | None = None
    sbatch: tuple[str, ...] = ()
    max_requeues: int = 20

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} {getattr(self, name)} is more than a job can have: give at most {most}")

    @property
    def ranks(self) -> int:
        """Tasks of the job."""
        return self.nodes * self.ntasks_per_node

    @property
    def seconds(self) -> int:
        """The time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS, as Slurm reads it; else ConfigError."""
        found = re.fullmatch(r"(?:(\d{1,18})-)?(\d{1,18})(?::(\d{1,18}))?(?::(\d{1,18}))?", self.time, re.ASCII)
        if found is None:
            raise ConfigError(f"--time {self.time} is not a time that Slurm reads: write HH:MM:SS or D-HH:MM:SS")
        days, *rest = found.groups()
        parts = [int(part) for part in rest if part is not None]
        first = 1 if days is not None or len(parts) == 3 else 2  # D-HH and HH:MM:SS begin with hours, MM:SS with minutes
        seconds = int(days or 0) * _UNITS[0]
        seconds += sum(unit * part for unit, part in zip(_UNITS[first : first + len(parts)], parts, strict=True))
        if seconds > _LONGEST:
            raise ConfigError(f"--time {self.time} is longer than Slurm can count: give at most {_LONGEST // _UNITS[0]}-00")
        return seconds


@dataclass(frozen=True)
class Script:
    """One batch script.

    origin       who wrote it
    name         of the job
    log          its output is in ``LOG-JOB.out``
    folder       where it works
    task         shell lines before the work, on one core
    work         the command that is started on the ranks, or shell lines for one core if not ``parallel``
    array        task numbers, as ``sbatch --array``; empty: one job
    summary      summary.json of a run, which says who stopped it, as a word of Bash

    ``task``, ``work`` and ``summary`` hold words of users as :func:`lines.command` quotes them.
    """

    origin: str
    name: str
    log: Path
    folder: Path
    resources: Resources
    site: Site
    work: str
    task: Sequence[str] = ()
    array: str = ""
    summary: str = "/dev/null"
    parallel: bool = True

    def text(self) -> str:
        """The script; ConfigError if a name, a folder or an option in it would not stay in its line."""
        work = f"attend {printable(self.site.launcher, TAB)} {self.work}" if self.parallel else self.work
        blocks = [
            self._head(),
            self._environment(),
            *(["# ---- this task\n" + "\n".join(self.task) + "\n"] if self.task else []),
            f"max_requeues={self.resources.max_requeues} summary={self.summary}\n{SESSIONS}",
            f"# ---- the work\n{work}\nleave $?\n",
        ]
        return "\n".join(blocks)

    def write(self, path: Path) -> None:
        """Write it in place of an earlier one; DataError where ``path`` is a file that somebody else wrote."""
        text = self.text()
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise DataError(
                f"{path} was not written by hpc-holstein and is never overwritten: move it or choose another --output"
            )
        replace_text(path, text)

    def _head(self) -> str:
        further = [option for options in (self.site.sbatch, self.resources.sbatch) for option in options]
        lines = [
            "#!/bin/bash",
            comment(f"{MARK}: {self.origin}"),
            comment("The same command writes it again: copy it under another name to change it, and submit that with sbatch."),
            *(directive(option) for option in self._options()),
            *(directive(*sbatch_words(option)) for option in further),
        ]
        return "\n".join(lines) + "\n"

    def _options(self) -> list[str]:
        resources, site = self.resources, self.site
        warning = min(_WARNING_SECONDS, resources.seconds // 10)
        partition, account = resources.partition or site.partition, resources.account or site.account
        return [
            f"--job-name={self.name}",
            f"--chdir={self.folder}",
            f"--output={log_pattern(self.log, '%A_%a' if self.array else '%j')}",
            "--open-mode=append",
            *([f"--array={self.array}"] if self.array else []),
            *([f"--partition={partition}"] if partition else []),
            *([f"--account={account}"] if account else []),
            f"--nodes={resources.nodes}",
            f"--ntasks-per-node={resources.ntasks_per_node}",
            f"--cpus-per-task={resources.cpus_per_task}",
            *self._gpu_options(),
            f"--time={resources.time}",
            "--requeue",
            f"--signal=B:USR1@{warning}",
        ]

    def _gpu_options(self) -> list[str]:
        """srun binds each rank to its GPU; under mpirun all ranks of a node see all of its GPUs and take one each."""
        resources = self.resources
        if not resources.gpus_per_task:
            return []
        if self.site.by_srun:
            return [f"--gpus-per-task={resources.gpus_per_task}", "--gpu-bind=single:1"]
        return [f"--gpus-per-node={resources.gpus_per_task * resources.ntasks_per_node}"]

    def _environment(self) -> str:
        site = self.site
        needed = dict.fromkeys([*([site.launcher.split()[0]] if self.parallel else []), "hpc-holstein"])
        lines = [
            "# ---- environment of the site",
            *(command("module", "load", name) for name in site.modules),
            *(printable(line, TAB) for line in site.setup),
            f'export PATH={command(site.programs)}:"$PATH"',
            CHECK.format(programs=" ".join(needed), site=command(site_path())),
        ]
        return "\n".join(lines)


CHECK = """\
if ! missing=$(hash {programs} 2>&1); then
    echo "error: ${{missing##*hash: }} on the PATH of job $SLURM_JOB_ID: name its module or environment in" {site} >&2
    exit 2
fi
set -uo pipefail
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}" SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
"""

SESSIONS = """\
# ---- sessions: before the time limit Slurm sends USR1, which is passed on to the work, and the job goes on after a requeue
session="${SLURM_RESTART_COUNT:-0}"
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}" # the bare id may stand for a whole array
job="${job:-$SLURM_JOB_ID}"
if ((session > max_requeues)); then
    echo "error: job $job was requeued $session times, more than $max_requeues: find out why, then submit it again" >&2
    exit 2
fi
# Not set by older versions of Slurm; a run saves its state in time before it.
SLURM_JOB_END_TIME="${SLURM_JOB_END_TIME:-$(date +%s -d "$(squeue -h -j "$job" -o %e)" 2>/dev/null)}"
export SLURM_JOB_END_TIME
echo "== job $job, session $session, on $SLURM_JOB_NODELIST"
told=0 work=
trap 'told=$((told + 1)); [[ -z $work ]] || kill -USR1 "$work" 2>/dev/null' USR1 TERM

attend() { # start a command, pass the signal on, return its exit code
    local before code
    "$@" &
    work=$!
    while before=$told; wait "$work"; code=$?; ((told > before)); do :; done
    work=
    return "$code"
}

leave() { # exit code 75 says that the same command goes on; a job that was cancelled, or stopped by a file STOP, does not
    if (($1 == 75 || ($1 > 2 && told))) && ! grep -qs '"stopped": "there is a file' "$summary" &&
        [[ $(squeue -h -j "$job" -o %T) == RUNNING ]]; then
        if ((session >= max_requeues)); then
            echo "error: not done after $max_requeues requeues: submit the script again to go on" >&2
        else
            echo "== session $session ended before the work did: requeued"
            scontrol requeue "$job" || echo "error: no requeue: submit the script again to go on" >&2
        fi
    fi
    exit "$1"
}
"""
