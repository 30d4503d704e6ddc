"""Numbers of an analysis: those that the run recorded of the same states."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import write_small_network

from hpc_holstein.cli import main
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.lattice import square
from hpc_holstein.output.analysis import digest, frames, local_exponent
from hpc_holstein.output.order import default_orders
from hpc_holstein.storage.trajectory import open_trajectory

ORDER = ("order_parameter", "order_parameter_q", "domain_wall_density")
LENGTHS = ("domain_length_first_zero", "domain_length_half_height", "domain_length_inverse_moment")


def checkerboard(extent: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(extent)
    return np.asarray(4 * (-1.0) ** (y + x))


def noise(extent: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(4).normal(0, 4, extent)


def two_domains(extent: tuple[int, int]) -> np.ndarray:
    return checkerboard(extent) * np.where(np.arange(extent[1]) < extent[1] // 2, 1, -1)


def analyzed(q: np.ndarray, *arguments: str, force: str = "exact") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The analysis of a run that starts at ``q``, all of its snapshots shown, and the series of the run."""
    with h5py.File("start.h5", "w") as file:
        file["q"] = q[None]
    extent = "x".join(map(str, q.shape))
    run = ["run", "--preset", "paper-2601.04104", "--lattice", extent, "--force", force, "--set", "initial.file=start.h5"]
    run += ["--set", "output.observables_every=1", "--set", "output.snapshot_every=1", "--steps", "3"]
    assert main([*run, *arguments, "--output", "run"]) == 0
    with open_trajectory(Path("run/trajectory.h5")) as trajectory:
        hamiltonian = holstein.build(holstein.Options(), square.build(q.shape))
        return digest(trajectory, frames(trajectory, hamiltonian, default_orders(hamiltonian))), trajectory.series()


def require_equal(content: dict[str, Any], series: dict[str, np.ndarray]) -> None:
    for index, frame in enumerate(content["frames"]):
        for name in (*ORDER, *LENGTHS):
            recorded = float(series[name][index])
            assert frame[name] == (recorded if math.isfinite(recorded) else None), name


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("extent", [(2, 2), (2, 8), (8, 6)])
@pytest.mark.parametrize("state", [noise, checkerboard, two_domains])
@pytest.mark.parametrize("dtype", ["mixed", "float32"])
def test_an_analysis_has_the_numbers_of_the_run(extent: tuple[int, int], state: Any, dtype: str) -> None:
    content, series = analyzed(state(extent), "--dtype", dtype)
    assert len(content["frames"]) == len(series["time"]) == 4
    require_equal(content, series)


def test_without_hopping_too() -> None:
    content, series = analyzed(two_domains((8, 8)), "--set", "hamiltonian.t=0", "--set", "initial.velocity_std=0")
    require_equal(content, series)
    assert content["frames"][0]["domain_wall_density"] == 1 / 8
    assert content["frames"][0]["order_parameter"] == 0


@pytest.mark.parametrize(("force", "dtype"), [("exact", "mixed"), ("exact", "float32"), ("kpm", "mixed"), ("atomic", "mixed")])
def test_a_uniform_state_has_neither_walls_nor_domains(force: str, dtype: str) -> None:
    still = ("--set", "initial.velocity_std=0", "--set", "dynamics.gamma=0", "--dtype", dtype)
    content, series = analyzed(np.zeros((10, 10)), *still, force=force)
    require_equal(content, series)
    assert (series["domain_wall_density"] == 0).all()
    for name in LENGTHS:
        assert np.isnan(series[name]).all()
        assert all(frame[name] is None for frame in content["frames"])
    assert content["growth_exponent"] is None


def test_figures_and_words_of_a_uniform_state(capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = analyzed(np.zeros((10, 10)), "--set", "initial.velocity_std=0", "--set", "dynamics.gamma=0")
    assert main(["analyze", "run"]) == 0
    assert capsys.readouterr().out.count("domain length none, no order") == 4
    found = json.loads(Path("run/analysis/analysis.json").read_text())
    assert found.pop("made")["command"] == "analyze"
    assert found == content
    assert main(["analyze", "run"]) == 0
    assert "is up to date" in capsys.readouterr().out


def test_one_snapshot_is_enough() -> None:
    content, series = analyzed(noise((6, 6)), "--steps", "1", "--set", "output.snapshot_every=100")
    assert [frame["step"] for frame in content["frames"]] == [0, 1]
    require_equal(content, series)


@pytest.mark.parametrize("length", [0.7, 12.3456789, 1e5])
def test_a_constant_length_grows_with_exponent_zero(length: float) -> None:
    exponents = local_exponent(np.linspace(0, 1000, 5000), np.full(5000, length))
    assert np.abs(exponents[np.isfinite(exponents)]).max() < 1e-12


def test_a_copied_folder_validates_and_goes_on_without_the_model(tmp_path: Path) -> None:
    write_small_network(tmp_path / "net.safetensors")
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "12x12", "--force", "net.safetensors", "--output", "run"]
    assert main([*run, "--steps", "2"]) == 0
    Path("net.safetensors").unlink()
    shutil.copytree("run", "elsewhere/copy")
    assert main(["validate", "--run", "elsewhere/copy", "--states", "1"]) == 0
    assert main([*run, "--steps", "3"]) == 0
    write_small_network(tmp_path / "net.safetensors", seed=8)  # another one of the same name
    assert main(["validate", "--run", "run", "--states", "1"]) == 0
    errors = [json.loads((Path(f) / "validation/validation.json").read_text()) for f in ("elsewhere/copy", "run")]
    assert errors[0]["model.sha256"] == errors[1]["model.sha256"]


def test_a_run_that_has_grown_is_analyzed_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """By the same command; nothing else is replaced: not the result of other options, nor a file that was changed."""
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "4x4", "--force", "atomic", "--output", "run"]
    run += ["--set", "output.snapshot_every=2"]
    record = Path("run/validation/validation.json")
    validate = ["validate", "--run", "run", "--force", "atomic", "--states", "2"]
    assert main([*run, "--steps", "4"]) == 0
    assert main(validate) == 0
    first = record.read_text()
    assert main(validate) == 0
    assert "is up to date" in capsys.readouterr().out
    assert record.read_text() == first
    assert main([*run, "--steps", "8"]) == 0
    assert main(validate) == 0
    assert json.loads(record.read_text())["made"]["state"]["step"] == 8
    assert main([*validate[:-1], "3"]) == 2
    (record.parent / "force_parity.png").write_bytes(b"mine")
    assert main([*run, "--steps", "12"]) == 0
    capsys.readouterr()
    assert main(validate) == 2
    assert "force_parity.png exists already and is never overwritten" in capsys.readouterr().err
    assert (record.parent / "force_parity.png").read_bytes() == b"mine"
    record.write_text("{}")
    assert main(validate) == 2
