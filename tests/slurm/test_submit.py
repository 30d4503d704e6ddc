"""`hpc-holstein submit` on two nodes: real ranks, real signals and time limits, the trajectory of an uninterrupted run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from slurm_cluster import Cluster, wait_for

from hpc_holstein.cli import main

RUN = ["--preset", "paper-2601.04104", "--lattice", "256x256", "--force", "atomic", "--seed", "3"]
RUN += ["--set", "output.snapshot_every=50", "--set", "output.checkpoint_every=50"]
TWO_NODES = ["--nodes", "2", "--ntasks-per-node", "1"]


def submit(capfd: pytest.CaptureFixture[str], *arguments: str) -> int:
    """The job of `hpc-holstein submit RUN ARGUMENTS`."""
    assert main(["submit", *RUN, *arguments]) == 0
    told = capfd.readouterr().out
    found = re.search(r"job (\d+) is submitted", told)
    assert found, told
    assert f"-{found[1]}.out" in told  # the file to watch
    return int(found[1])


def uninterrupted(folder: str, steps: int) -> Path:
    """The same run on as many ranks, outside of Slurm."""
    command = [
        "mpirun",
        "-n",
        "2",
        sys.executable,
        "-m",
        "hpc_holstein",
        "run",
        *RUN,
        "--steps",
        str(steps),
        "--output",
        folder,
    ]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Path(folder)


def arrays(run: Path) -> dict[str, np.ndarray]:
    """All datasets of a trajectory but for what its steps cost."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("timing/"):
            found[name] = item[...]

    with h5py.File(run / "trajectory.h5") as file:
        file.visititems(note)
    return found


def require_same(run: Path, reference: Path) -> None:
    """Bit for bit, everything in the trajectory."""
    one, other = arrays(run), arrays(reference)
    assert set(one) == set(other) >= {"q", "velocity", "density"}
    for name, values in one.items():
        assert values.shape == other[name].shape
        assert values.tobytes() == other[name].tobytes(), name


def goes(folder: str) -> bool:
    """Whether the run has come to its first regular checkpoint."""
    return any(not path.stem.endswith("-000000000000") for path in Path(folder, "checkpoints").glob("step-*.h5"))


def test_a_run_that_is_told_to_stop_is_requeued_and_ends_as_if_it_had_not_been(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = 500
    job = submit(capfd, *TWO_NODES, "--steps", str(steps), "--time", "00:10:00", "--output", "quench")
    log = Path(f"quench-{job}.out")
    wait_for(lambda: goes("quench"), "the first checkpoint")
    cluster.signal(job)
    wait_for(lambda: "requeued" in log.read_text(), "the requeue")
    reference = uninterrupted("reference", steps)
    found = cluster.ended(job)
    assert (found.state, found.restarts) == ("COMPLETED", 1), log.read_text()
    assert "because SIGUSR1 arrived: the same command continues it" in log.read_text()
    assert re.search(r"session 1.*continued at step [1-9]", log.read_text(), re.DOTALL)
    require_same(Path("quench"), reference)


@pytest.mark.parametrize("name", ["a b", 'it\'s "$HOME" `id`', "-n", "50%j", "ä\u2764"])
def test_a_run_in_a_folder_of_any_name(cluster: Cluster, capfd: pytest.CaptureFixture[str], name: str) -> None:
    Path(f"in {name}").mkdir()
    os.chdir(f"in {name}")  # goes back with the test
    job = submit(capfd, "--lattice", "16x16", "--steps", "2", f"--output={name}", "--sbatch=--comment='a b'")
    found, log = cluster.ended(job), Path(f"{name}-{job}.out")
    assert (found.state, found.code) == ("COMPLETED", 0)
    assert "2 steps of 256 sites" in log.read_text()
    assert json.loads(Path(name, "summary.json").read_text())["stopped"] is None
    assert {path.name for path in Path().iterdir()} == {name, log.name, f"{name}.sbatch"}


WRONG = {  # how it is launched -> options of the job, the launcher, the sentence
    "singletons": ("--ntasks=2", "srun --mpi=none", "Slurm started 2 tasks but MPI joins none of them"),
    "forgotten": ("--ntasks=2", "", "this job has 2 tasks and one rank was started"),
    "no-cuda": ("--ntasks=1 --gpus-per-task=1", "srun", "the job has 1 GPU(s) on"),
}


def test_a_wrong_launch_is_one_sentence(cluster: Cluster) -> None:
    jobs = {}
    for name, (options, launch, _) in WRONG.items():
        command = f"{launch} hpc-holstein run {' '.join(RUN)} --steps 1 --output {name}"
        Path(f"{name}.sbatch").write_text(f"#!/bin/bash\n#SBATCH {options} --output={name}.out\n{command}\n")
        jobs[name] = cluster.sbatch(f"{name}.sbatch")
    for name, (_, _, sentence) in WRONG.items():
        found, told = cluster.ended(jobs[name]), Path(f"{name}.out").read_text()
        assert (found.state, found.code) == ("FAILED", 2), told
        assert sentence in told
        assert told.count("error: ") - told.count("srun: error: ") == 1
        assert not Path(name).exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_over_several_time_limits_ends_as_one_without(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    steps = _steps_of(75.0)
    job = submit(capfd, *TWO_NODES, "--steps", str(steps), "--time", "00:01:00", "--output", "long")
    found = cluster.ended(job, 600)
    log = Path(f"long-{job}.out").read_text()
    assert found.state == "COMPLETED", log
    assert found.restarts >= 1
    assert "because the Slurm job is about to end" in log or "because SIGUSR1 arrived" in log
    require_same(Path("long"), uninterrupted("reference", steps))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_whose_node_is_lost_goes_on_elsewhere(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    steps = _steps_of(25.0)
    job = submit(capfd, "--ntasks-per-node", "2", "--steps", str(steps), "--time", "00:10:00", "--output", "lost")
    log = Path(f"lost-{job}.out")
    wait_for(lambda: goes("lost"), "the first checkpoint")
    node = re.findall(r"session 0, on (\w+)", log.read_text())[0]
    cluster.lose_node(node, job)
    try:
        found = cluster.ended(job, 300)
    finally:
        cluster.find_node(node)
    assert (found.state, found.restarts) == ("COMPLETED", 1), log.read_text()
    other = re.findall(r"session 1, on (\w+)", log.read_text())
    assert other
    assert other[0] != node
    require_same(Path("lost"), uninterrupted("reference", steps))


def _steps_of(seconds: float) -> int:
    """How many steps take about so long on this machine."""
    told = json.loads((uninterrupted("probe", 100) / "summary.json").read_text())
    return int(100 * seconds / told["wall_seconds"]) // 50 * 50
