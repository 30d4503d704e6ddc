"""The scripts of slurm/ as people submit them, on CPU ranks and small lattices."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from slurm_cluster import Cluster

SCRIPTS = Path(__file__).parents[2] / "slurm"
CONFIG = """
preset = "paper-2601.04104"

[lattice]
extent = [16, 16]

[dynamics]
steps = 10

[model]
kind = "enn"
copies = 1
radii = [1, 0]
levels = 3

[training]
epochs = 60
"""
TWO = ["--ntasks-per-node=2"]
ATOMIC = ["--force", "atomic"]
BRIEF = ["--steps", "2", "--repeats", "3", "--warm-up", "1"]
GPU = ["--gpus-per-task=1", "--cpus-per-task=1"]
TRAIN = ["labelled/one.h5", "model", "config.toml", "--device", "cpu"]
JOBS = {
    "run_cpu": [[*TWO], ["config.toml", "cpu", *ATOMIC]],
    "run_gpu": [[*GPU], ["config.toml", "gpu", *ATOMIC, "--device", "cpu"]],
    "label_array": [["--array=0-1", "--ntasks-per-node=1"], ["labelled", "one.h5", "two.h5"]],
    "scaling_strong": [[*TWO], ["config.toml", "strong", *ATOMIC, *BRIEF]],
    "scaling_weak": [[*TWO], ["config.toml", "weak", *ATOMIC, *BRIEF]],
    "pipeline": [["--ntasks-per-node=1"], ["config.toml", "all", "--random", "8", "--lattice", "8x8"]],
}
"""Script -> options of sbatch, arguments of the script."""


def submit(cluster: Cluster, name: str, options: list[str], arguments: list[str]) -> int:
    """The job of a script."""
    return cluster.sbatch(*options, f"--output={name}-%a.out", SCRIPTS / f"{name}.sbatch", *arguments)


@pytest.fixture(scope="module")
def folder(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them have run; what one needs of another comes before it."""
    place = tmp_path_factory.mktemp("scripts")
    (place / "config.toml").write_text(CONFIG)
    for name in ("one", "two"):
        with h5py.File(place / f"{name}.h5", "w") as file:
            file["q"] = np.random.default_rng(0).normal(0, 2, size=(4, 8, 8))
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "activate").write_text("")  # the PATH of the tests has all programs
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, value in {"LATTICE": "16x16", "TILE": "8x8", "SEEDS": "3"}.items():
            patch.setenv(f"HOLSTEIN_{name}", value)
        jobs = {name: submit(cluster, name, *job) for name, job in JOBS.items()}
        jobs["train_gpus"] = submit(cluster, "train_gpus", [f"--dependency=afterok:{jobs['label_array']}", *GPU], TRAIN)
        ids = [str(job) for name, job in jobs.items() if name != "label_array"]
        for job in [*ids, *(f"{jobs['label_array']}_{task}" for task in (0, 1))]:
            found = cluster.ended(job)
            assert (found.state, found.code) == ("COMPLETED", 0), "\n".join(p.read_text() for p in place.glob("*.out"))
    return place


@pytest.mark.parametrize(("run", "ranks", "steps"), [("cpu", 2, 10), ("gpu", 1, 10), ("all/run-3", 1, 10)])
def test_a_run_is_done(folder: Path, run: str, ranks: int, steps: int) -> None:
    summary = json.loads((folder / run / "summary.json").read_text())
    assert (summary["ranks"], summary["steps"], summary["stopped"]) == (ranks, steps, None)


@pytest.mark.parametrize("name", ["one", "two"])
def test_each_task_labels_its_file(folder: Path, name: str) -> None:
    with h5py.File(folder / "labelled" / f"{name}.h5") as file:
        assert file["force"].shape == (4, 8, 8)


def test_a_network_is_trained(folder: Path) -> None:
    assert json.loads((folder / "model" / "metrics.json").read_text())["data"] == "labelled/one.h5"


@pytest.mark.parametrize(("kind", "lattices"), [("strong", [[16, 16], [16, 16]]), ("weak", [[8, 8], [16, 8]])])
def test_a_sweep_has_a_record_for_each_number_of_ranks_and_a_report(folder: Path, kind: str, lattices: list[list[int]]) -> None:
    tile = "16x16" if kind == "strong" else "8x8"
    records = [json.loads((folder / kind / f"{kind}-atomic-mixed-{tile}-{ranks}.json").read_text()) for ranks in (1, 2)]
    assert [record["setting"]["lattice"] for record in records] == lattices
    assert [record["setting"]["ranks"] for record in records] == [1, 2]
    (report,) = (folder / kind).glob("report-*/report.md")
    assert f"{kind.capitalize()} scaling: atomic {tile}" in report.read_text()


def test_the_pipeline_ends_with_figures(folder: Path) -> None:
    assert (folder / "all" / "run-3" / "analysis" / "cdw_maps.png").exists()
