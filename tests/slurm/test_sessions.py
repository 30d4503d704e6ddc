"""What a batch script makes of the ways in which its work can end; the work is a stand-in of a line or two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Job, wait_for

from hpc_holstein.batch.script import Resources, Script
from hpc_holstein.batch.site import Site

# name -> the work
WORK = {
    "goes-on": "(( SLURM_RESTART_COUNT )) || exit 75",
    "by-mpirun": "(( SLURM_RESTART_COUNT )) || exit 75",
    "never-done": "exit 75",
    "fails": "exit 1",
    "is-wrong": "exit 2",
    "told": "(( SLURM_RESTART_COUNT )) || sleep 60",
    "stopped": """echo '  "stopped": "there is a file x/STOP",' >stopped.json; exit 75""",
    "cancelled": "trap 'exit 75' TERM; touch cancelled.started; sleep 60 & wait",
    "array": "(( SLURM_ARRAY_TASK_ID == 0 || SLURM_RESTART_COUNT )) || exit 75",
    "no-launcher": "true",
}
LAUNCHERS = {"by-mpirun": 'mpirun -n "$SLURM_NTASKS"', "no-launcher": "mpirun-of-nobody"}


@dataclass(frozen=True)
class Ended:
    """A job after its end, and what it printed."""

    job: Job
    log: str

    @property
    def sessions(self) -> int:
        """How often the script began."""
        return self.log.count("== job ")


@pytest.fixture(scope="module")
def ended(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All of them at once: most of their time is spent waiting for requeues."""
    folder = tmp_path_factory.mktemp("sessions")
    jobs = {name: cluster.sbatch(_script(folder, name)) for name in WORK}
    log = folder / f"told-{jobs['told']}.out"
    wait_for(lambda: log.exists() and "== job" in log.read_text(), "the job that is told")
    wait_for((folder / "cancelled.started").exists, "the job that is cancelled")
    cluster.signal(jobs["told"])
    os.system(f"scancel {jobs['cancelled']}")
    array = jobs.pop("array")
    ids = {**{name: str(job) for name, job in jobs.items()}, **{f"array-{task}": f"{array}_{task}" for task in (0, 1)}}
    return {name: Ended(cluster.ended(job), next(folder.glob(f"*-{job}.out")).read_text()) for name, job in ids.items()}


def _script(folder: Path, name: str) -> Path:
    programs = folder / name / "bin"
    programs.mkdir(parents=True)
    (programs / "hpc-holstein").write_text(f"#!/bin/bash\n{WORK[name]}\n")
    (programs / "hpc-holstein").chmod(0o755)
    script = Script(
        origin="a test",
        name=name,
        log=folder / name,
        folder=folder,
        resources=Resources(ntasks_per_node=2, time="00:10:00", max_requeues=1),
        site=Site(environment=str(folder / name), launcher=LAUNCHERS.get(name, "srun")),
        work="hpc-holstein",
        array="0-1" if name == "array" else "",
        summary="stopped.json" if name == "stopped" else "/dev/null",
    )
    script.write(folder / f"{name}.sbatch")
    return folder / f"{name}.sbatch"


@pytest.mark.parametrize("name", ["goes-on", "by-mpirun", "told", "array-1"])
def test_work_that_can_go_on_does_so_after_a_requeue(ended: dict[str, Ended], name: str) -> None:
    found = ended[name]
    assert (found.job.state, found.job.code, found.job.restarts, found.sessions) == ("COMPLETED", 0, 1, 2), found.log
    assert "session 0 ended before the work did: requeued" in found.log


def test_only_the_task_that_can_go_on_is_requeued(ended: dict[str, Ended]) -> None:
    assert (ended["array-0"].job.state, ended["array-0"].sessions) == ("COMPLETED", 1)


def test_requeues_have_an_end(ended: dict[str, Ended]) -> None:
    found = ended["never-done"]
    assert (found.job.state, found.job.code, found.sessions) == ("FAILED", 75, 2), found.log
    assert "error: not done after 1 requeues" in found.log


@pytest.mark.parametrize(("name", "code"), [("fails", 1), ("is-wrong", 2)])
def test_work_that_fails_is_not_started_again(ended: dict[str, Ended], name: str, code: int) -> None:
    found = ended[name]
    assert (found.job.state, found.job.code, found.job.restarts, found.sessions) == ("FAILED", code, 0, 1), found.log


def test_a_file_stop_ends_the_job_for_good(ended: dict[str, Ended]) -> None:
    found = ended["stopped"]
    assert (found.job.state, found.job.code, found.job.restarts) == ("FAILED", 75, 0), found.log


def test_a_job_that_is_cancelled_stays_so(ended: dict[str, Ended]) -> None:
    found = ended["cancelled"]
    assert (found.job.state, found.job.restarts, found.sessions) == ("CANCELLED", 0, 1), found.log
    assert "requeued" not in found.log


def test_a_program_that_is_not_there_is_one_sentence(ended: dict[str, Ended]) -> None:
    found = ended["no-launcher"]
    assert (found.job.state, found.job.code) == ("FAILED", 2)
    lines = found.log.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: mpirun-of-nobody: not found on the PATH of job")
    assert lines[0].endswith("site.toml")
