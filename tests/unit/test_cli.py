"""The commands, in this process: the whole path at a tiny size, and one sentence for everything that can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpc_holstein
from hpc_holstein import __main__
from hpc_holstein.cli import main
from hpc_holstein.cli.arguments import COMMANDS

PRESET = ["--preset", "paper-2601.04104"]
JUDGE = ["--input", "states.h5"]
KPM = ["--reference", "kpm", "--reference-set"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # commands set the threads of this process
    return tmp_path


def write_states(path: Path, attributes: dict[str, Any] | None = None, cells: tuple[int, int] = (6, 4)) -> np.ndarray:
    q = 5 * np.random.default_rng(2).normal(size=(3, *cells))
    with h5py.File(path, "w") as file:
        file["q"] = q
        file.attrs.update(attributes or {})
    return q


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command prints; it leaves with code 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_from_labels_to_figures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ["label", "--random", "2", "--quenches", "3", "--per-quench", "4", "--quench-steps", "20", "--path-force", "atomic"]
    assert main([*made, "--lattice", "10x10", "--seed", "3", "--output", "data.h5"]) == 0
    assert main(["train", "data.h5", "--model", "enn", "--epochs", "30", "--set", "model.copies=1", "--output", "model"]) == 0
    assert {p.name for p in Path("model").iterdir()} == {"model.safetensors", "loss.csv", "loss.png", "metrics.json"}
    model = "model/model.safetensors"
    small = ["--lattice", "12x10", "--steps", "20", "--set", "output.snapshot_every=5"]
    assert main(["run", *PRESET, *small, "--force", model, "--output", "quench"]) == 0
    summary = json.loads(Path("quench/summary.json").read_text())
    assert (summary["steps"], summary["lattice"], summary["ranks"]) == (20, [12, 10], 1)
    assert summary["electron_number_drift"] < 1e-10
    assert len(summary["model.sha256"]) == 64
    assert main(["validate", "--run", "quench", "--states", "3"]) == 0
    found = json.loads(Path("quench/validation/validation.json").read_text())
    assert found["all"]["snapshots"] == 3
    assert 0 < found["all"]["mse"] < 1
    assert found["units"]["mse"] == "(t_nn/a)^2"
    names = {"validation.json", "force_parity.png", "force_errors.png", "error_histogram.png", "error_map.png"}
    assert {p.name for p in Path("quench/validation").iterdir()} == names
    assert main(["validate", "--input", "data.h5", "--force", "exact", "--reference", "labels", "--output", "same"]) == 0
    assert json.loads(Path("same/validation.json").read_text())["all"]["max_error"] < 1e-10
    assert main(["analyze", "quench"]) == 0
    assert len(list(Path("quench/analysis").glob("*.png"))) == 5
    assert json.loads(Path("quench/analysis/analysis.json").read_text())["steps"] == 20
    capsys.readouterr()
    run = "trajectory of 12x10 cells: 5 snapshots"
    for what, word in (
        (model, "enn"),
        ("model", "enn"),
        ("data.h5", "forces by exact"),
        ("quench", run),
        ("quench/trajectory.h5", run),
    ):
        assert main(["show", what]) == 0
        assert word in capsys.readouterr().out
    assert "model is made for another system: kT" in refused(
        capsys, "run", *PRESET, *small, "--force", model, "--set", "ensemble.kT=0.3", "--output", "other"
    )
    assert "kT is 0.1 there and 0.3 here" in refused(
        capsys, "train", "data.h5", "--set", "ensemble.kT=0.3", "--output", "other"
    )
    for again in (
        ["run", *PRESET, *small, "--output", "quench"],
        ["analyze", "quench", "--frames", "2"],
        ["validate", "--run", "quench"],
    ):
        assert "never overwritten" in refused(capsys, *again)
    assert not Path("other").exists()


def validation(*arguments: str) -> dict[str, Any]:
    """The numbers of ``validate``."""
    assert main(["validate", *arguments]) == 0
    folder = arguments[arguments.index("--output") + 1]
    found: dict[str, Any] = json.loads((Path(folder) / "validation.json").read_text())
    return found


def test_the_last_state_of_a_run_is_judged(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--lattice", "10x8", "--steps", "6", "--set", "output.snapshot_every=3", "--force", "atomic", "--output", "run"]
    assert main(["run", *PRESET, *small]) == 0
    capsys.readouterr()
    found = validation("--run", "run", "--states", "1", "--output", "last")
    said = capsys.readouterr().out
    assert "force atomic: 1/1" in said
    assert "reference exact: 1/1" in said
    assert found["all"]["snapshots"] == 1
    with h5py.File("run/trajectory.h5") as file, h5py.File("states.h5", "w") as states:
        states["q"] = file["q"][2:]
    again = validation("--input", "states.h5", "--force", "atomic", "--output", "again")
    assert again["all"]["mse"] == pytest.approx(found["all"]["mse"])


def test_a_sampled_reference_a_reach_and_a_budget(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option acts on the side it names."""
    write_states(Path("states.h5"))
    sampled = ["--input", "states.h5", "--sites", "7", "--sites-seed", "2"]
    found = validation(*sampled, "--force", "exact", "--reference", "local", "--reach", "4", "--output", "a")
    assert (found["all"]["values"], len(found["sites"]["numbers"])) == (21, 7)
    assert found["all"]["max_error"] < 1e-10  # the clusters hold the lattice of 6x4
    assert found["chemical_potential_of"] == "force exact"
    assert "that of force exact" in capsys.readouterr().out
    assert not Path("a/error_map.png").exists()
    floor = validation(*sampled, "--force", "local", "--reach", "1", "--reference", "exact", "--output", "b")
    other = validation(
        *sampled,
        "--force",
        "local",
        "--set",
        "force.reach=1",
        "--reference",
        "local",
        "--reference-set",
        "reach=3",
        "--output",
        "c",
    )
    assert floor["all"]["mse"] == pytest.approx(other["all"]["mse"], rel=1e-4)  # but for the mu of KPM
    assert other["chemical_potential_of"].startswith("kpm of the whole lattice")
    assert other["reference_provider"]["options"]["reach"] == 3
    whole = validation("--input", "states.h5", "--force", "local", "--reach", "1", "--budget", "--output", "d")
    parts = {part["name"]: part for part in whole["budget"]["parts"]}
    assert list(parts) == ["chemical potential", "reach 1", "total"]
    assert parts["total"]["rms"] == pytest.approx(whole["all"]["rmse"])
    assert parts["total"]["values"] == 72
    assert Path("d/error_budget.png").exists()
    write_states(Path("large.h5"), cells=(9, 10))  # as many as the network sees
    network = validation("--input", "large.h5", "--force", "neural", "--budget", "--states", "1", "--output", "e")
    assert [part["name"] for part in network["budget"]["parts"]] == ["chemical potential", "network", "reach 4", "total"]


def test_kpm_is_judged_with_its_probing_error(here: Path) -> None:
    """Probing, truncation and mu add up to no more than it promises."""
    write_states(Path("states.h5"))
    found = validation(
        "--input",
        "states.h5",
        "--states",
        "1",
        "--force",
        "kpm",
        "--set",
        "force.tolerance=1e-3",
        "--sites",
        "5",
        "--budget",
        "--output",
        "a",
    )
    parts = {part["name"]: part for part in found["budget"]["parts"]}
    assert list(parts) == ["probing", "truncation", "chemical potential", "rest", "total"]
    assert parts["rest"]["max"] < 1e-4
    assert parts["total"]["values"] == 5


def test_petsc_judges_a_sample_with_options_of_its_own(here: Path) -> None:
    pytest.importorskip("petsc4py")
    write_states(Path("states.h5"))
    options = ["--reference-set", "petsc=-ksp_type bcgs", "--reference-set", "tolerance=1e-7"]
    found = validation(
        "--input", "states.h5", "--force", "exact", "--reference", "petsc", "--sites", "4", *options, "--output", "a"
    )
    assert found["all"]["values"] == 12
    assert found["all"]["max_error"] < 1e-7
    assert found["reference_provider"]["options"] == {"petsc": "-ksp_type bcgs", "tolerance": 1e-7}


def test_labels_are_added_and_nothing_else_changes(here: Path) -> None:
    q = write_states(Path("states.h5"), {"note": "mine"})
    assert main(["label", "--input", "states.h5", "--force", "exact", "--output", "labelled.h5"]) == 0
    with h5py.File("labelled.h5") as file:
        assert np.array_equal(file["q"], q)
        assert file.attrs["note"] == "mine"
        assert set(file) == {"q", "force", "density", "chemical_potential", "more_chemical_potential", "more_density"}
        assert file["force"].attrs["hamiltonian.g"] == 3.5
        g, k, kappa = 3.5, 1.0, 0.18
        neighbours = sum(np.roll(q, step, axis) for step in (1, -1) for axis in (1, 2))
        expected = g * (file["density"][...] - 0.5) - k * q - kappa * neighbours
        assert np.allclose(file["force"], expected, atol=1e-12)
        assert np.allclose(file["density"][...].mean(axis=(1, 2)), 0.5, atol=1e-12)


def test_a_run_continues_from_a_snapshot_of_another(here: Path) -> None:
    common = [*PRESET, "--lattice", "6x6", "--force", "atomic"]
    assert main(["run", *common, "--steps", "4", "--output", "first"]) == 0
    assert main(["run", *common, "--steps", "2", "--set", "initial.file=first", "--output", "second"]) == 0
    with h5py.File("first/trajectory.h5") as first, h5py.File("second/trajectory.h5") as second:
        for name in ("q", "velocity"):
            assert np.array_equal(second[name][0], first[name][-1])


SOFT, COARSE = ["--set", "hamiltonian.k=0.5"], ["--set", "dynamics.dt=3.5"]
NO_GROUND_STATE = ["hamiltonian.k = 0.5 with kappa = 0.18 has no ground state", "stiffness -0.22", "give k > 0.72"]
QUENCH = ["--lattice", "6x6", "--quenches", "1", "--per-quench", "3", "--force", "atomic", "--output", "x.h5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rum"], ["invalid choice: 'rum'"]),
        (["run", "--prset", "x"], ["unknown option --prset", "did you mean --preset?"]),
        (["run"], ["--preset paper-2601.04104"]),
        (["run", *PRESET, "--steps", "0"], ["--steps", "'0'"]),
        (["run", *PRESET, "--lattice", "40x"], ["'40x' is not one positive number for each axis"]),
        (["run", *PRESET, "--set", "dynamics.dtt=1"], ["'dynamics.dtt'", "dynamics.dt"]),
        (["run", *PRESET, "--set", "dynamics.dt=fast"], ["dynamics.dt = 'fast'", "a number"]),
        (["run", *PRESET, "--force", "exakt"], ["'exakt'", "did you mean 'exact'?"]),
        (["run", *PRESET, "--force", "gone.safetensors"], ["gone.safetensors does not exist"]),
        (["run", *PRESET, "--force", "atomic", "--grid", "2x1"], ["2x1", "1 rank"]),
        (["run", *PRESET, "--force", "atomic", "--set", "initial.file=gone.h5"], ["gone.h5 does not exist"]),
        (
            ["run", *PRESET, "--force", "atomic", "--lattice", "6x4", "--set", "initial.file=far.h5"],
            ["far.h5", "|q| beyond 1e+06"],
        ),
        (
            ["run", *PRESET, "--force", "atomic", "--lattice", "6x4", "--set", "initial.file=vector.h5"],
            ["vector.h5 has 2 components"],
        ),
        (["run", *PRESET, "--force", "atomic", "--lattice", "1000000x1000000"], ["1000000x1000000 cells on 1 rank(s)", "GiB"]),
        (["run", *PRESET, "--force", "atomic", "--threads", "1000000"], ["1000000 threads a rank"]),
        (["run", *PRESET, "--force", "atomic", "--output", "states.h5/x"], ["states.h5/x/trajectory.h5 cannot be written"]),
        (["run", *PRESET, "--force", "atomic", "--device", "cuda:99"], ["cuda:99", "use auto or cpu"]),
        (["run", *PRESET, "--force", "atomic", *SOFT], NO_GROUND_STATE),
        (["run", *PRESET, "--force", "atomic", "--set", "hamiltonian.k=0.72"], ["k = 0.72", "give k > 0.72"]),
        (["run", *PRESET, "--force", "atomic", "--set", "hamiltonian.kappa=-0.3"], ["kappa = -0.3", "give k > 1.2"]),
        (["run", *PRESET, "--force", "atomic", *COARSE], ["dt = 3.5", "is unstable", "2/omega = 3.41", "give 0.33 or less"]),
        (["label", *QUENCH, *SOFT], NO_GROUND_STATE),
        (["label", *QUENCH, *COARSE], ["dt = 3.5", "is unstable"]),
        (["label", *QUENCH, "--set", "health.max_temperature=1"], ["quench 0: the run diverged by step", "beyond 1 (health."]),
        (["submit", *PRESET, *SOFT], NO_GROUND_STATE),
        (["bench", "strong", *SOFT, "--output", "x"], NO_GROUND_STATE),
        (["label", "--output", "x.h5"], ["nothing to label"]),
        (["label", "--input", "gone.h5", "--output", "x.h5"], ["gone.h5 does not exist"]),
        (["label", "--input", "states.h5", "--random", "3", "--output", "x.h5"], ["--random has no meaning with --input"]),
        (["label", "--random", "3", "--even", "--output", "x.h5"], ["--even has no meaning without quenches"]),
        (["label", "--input", "states.h5", "--output", "states.h5"], ["states.h5 exists already"]),
        (["label", "--input", "nan.h5", "--output", "x.h5"], ["nan in snapshot 1 at site (y, x) = (2, 3)"]),
        (["label", "--input", "states.h5", "--output", "soft.h5/x.h5"], ["soft.h5/x.h5 cannot be written"]),
        (["label", "--input", "vector.h5", "--output", "x.h5"], ["vector.h5 has 2 components", "[snapshot, y, x]"]),
        (["label", "--input", "open.h5", "--output", "x.h5"], ["lattice.periodic is [False, False] there"]),
        (["label", "--input", "group.h5", "--output", "x.h5"], ["step of group.h5 is a group"]),
        (["label", "--input", "half.h5", "--output", "x.h5"], ["half.h5", "truncated"]),
        (["label", "--input", "soft.h5", "--output", "x.h5"], ["hamiltonian.g is 1.5 there and 3.5 here"]),
        (["train", "states.h5", "--output", "m"], ["states.h5 is not labelled"]),
        (["validate", "--input", "states.h5", "--reference", "labels"], ["states.h5 is not labelled"]),
        (["validate", "--run", "nowhere"], ["nowhere/trajectory.h5 does not exist"]),
        (["validate", *JUDGE, "--sites", "0"], ["--sites", "'0'"]),
        (["validate", *JUDGE, "--sites", "25"], ["sites = 25", "a lattice of 24"]),
        (["validate", *JUDGE, "--sites-seed", "3"], ["--sites-seed 3 has no meaning without --sites"]),
        (["validate", *JUDGE, "--reach", "-1", "--force", "local"], ["--reach", "'-1'"]),
        (["validate", *JUDGE, "--reach", "2"], ["--reach 2", "neither side is local"]),
        (["validate", *JUDGE, "--reference", "exakt"], ["--reference = 'exakt'", "did you mean 'exact'?"]),
        (["validate", *JUDGE, *KPM, "tolerence=1e-8"], ["'reference.tolerence'", "did you mean 'reference.tolerance'?"]),
        (["validate", *JUDGE, *KPM, "tolerance=fast"], ["reference.tolerance = 'fast'", "a number"]),
        (["validate", *JUDGE, *KPM, "tolerance"], ["--reference-set tolerance is not an assignment"]),
        (["validate", *JUDGE, "--force", "atomic", *KPM, "tolerance=7"], ["tolerance = 7.0 is not a force error"]),
        (["validate", *JUDGE, *KPM, "sites=3"], ["give --sites N instead"]),
        (["validate", *JUDGE, "--set", "force.sites=3", "--force", "local"], ["give --sites N instead"]),
        (["validate", *JUDGE, "--reference-set", "reach=3", "--reference", "labels"], ["states.h5 is not labelled"]),
        (["analyze", "nowhere"], ["nowhere/trajectory.h5 does not exist"]),
        (["analyze", "states.h5"], ["states.h5 is not a trajectory"]),
        (["show", "nowhere"], ["nowhere does not exist"]),
        (["show", "README.txt"], ["README.txt does not exist"]),
        (["show", "note.txt"], ["neither a model"]),
        (["show", "half.safetensors"], ["half.safetensors"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    q = write_states(here / "states.h5")
    write_states(here / "soft.h5", attributes={"hamiltonian.g": 1.5})
    (here / "half.h5").write_bytes((here / "states.h5").read_bytes()[:1200])
    (here / "half.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (here / "note.txt").write_text("words")
    write_states(here / "open.h5", {"periodic": [False, False]})
    with h5py.File(here / "group.h5", "w") as file:
        file["q"] = q
        file.create_group("step")
    for name, other in (("far.h5", 1e9 * q), ("vector.h5", np.stack([q, q], axis=-1))):
        with h5py.File(here / name, "w") as file:
            file["q"] = other
    q[1, 2, 3] = np.nan
    with h5py.File(here / "nan.h5", "w") as file:
        file["q"] = q
    before = sorted(path.name for path in here.iterdir())
    message = refused(capsys, *arguments)
    for word in words:
        assert word in message
    assert sorted(path.name for path in here.iterdir()) == before  # refused before any work


@pytest.mark.parametrize("threads", ["many", "0", "-2"])
def test_bad_thread_numbers_of_the_environment_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert f"OMP_NUM_THREADS = '{threads}'" in refused(capsys, "run", *PRESET, "--force", "atomic")


def test_thread_numbers_of_nested_levels_are_understood(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    write_states(Path("states.h5"))
    assert main(["label", "--input", "states.h5", "--output", "x.h5"]) == 0
    assert "1 thread each" in capsys.readouterr().out


def test_attributes_that_are_arrays_of_one_number_are_numbers(here: Path) -> None:
    write_states(Path("states.h5"), {"hamiltonian.g": np.array([3.5])})
    assert main(["label", "--input", "states.h5", "--output", "x.h5"]) == 0


def test_output_without_a_reader_does_not_end_the_work(here: Path) -> None:
    write_states(Path("states.h5"))
    command = [sys.executable, "-m", "hpc_holstein", "label", "--input", "states.h5", "--output", "x.h5"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as work:
        assert work.stdout is not None
        work.stdout.close()
        _, spoken = work.communicate(timeout=60)
    assert work.returncode == 0
    assert spoken == b""
    assert Path("x.h5").exists()


def test_an_interrupt_while_importing_leaves_no_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpc_holstein.cli.main", interrupted)
    assert __main__.main() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"hpc-holstein {command}" in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hpc-holstein {hpc_holstein.__version__}\n"


def test_tasks_that_mpi_does_not_join_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert "Slurm started 4 tasks" in refused(capsys, "show", "default")
