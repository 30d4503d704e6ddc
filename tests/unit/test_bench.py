"""``bench strong|weak`` measure what they say, write whole records or none; ``report`` compares only what can be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_holstein.bench import step
from hpc_holstein.bench.record import Record, read
from hpc_holstein.bench.report import lines_of
from hpc_holstein.bench.step import PARTS
from hpc_holstein.cli import main
from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import DataError

ROOT = Path(__file__).parents[2]
STRONG = ["strong", "--lattice", "16x16", "--force", "atomic"]
BRIEF = ["--steps", "2", "--repeats", "3", "--warm-up", "1"]
POINT = Path("s/strong-atomic-mixed-16x16-1.json")
GRIDS = {1: (1, 1), 2: (2, 1), 4: (2, 2)}
MACHINE = {
    "host": "node07",
    "cpu": "a processor",
    "cores": 4,
    "device": "cpu",
    "load": 0.1,
    "mpi": "an MPI",
    "versions": {"torch": "2"},
    "git": "0123456789abcdef",
    "dirty": False,
    "date": "2026-01-01",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


def point() -> Record:
    found = read(POINT)
    assert found is not None
    return found


def test_a_point_says_where_a_step_spends_its_time() -> None:
    assert bench(*STRONG, *BRIEF, "--output", "s") == 0
    assert list(Path("s").iterdir()) == [POINT]
    found = point()
    assert found.setting["lattice"] == [16, 16]
    assert (found.ranks, found.setting["grid"], found.setting["steps"], found.setting["repeats"]) == (1, [1, 1], 2, 3)
    assert found.machine.keys() >= {"host", "cpu", "device", "load", "versions", "git", "dirty", "mpi"}
    parts = found.result["parts"]
    assert tuple(parts) == PARTS
    assert all(0 <= value["min"] <= value["median"] <= value["max"] for value in parts.values())
    assert sum(value["min"] for value in parts.values()) <= found.result["seconds"]["min"] * (1 + 1e-9)
    assert sum(value["max"] for value in parts.values()) >= found.result["seconds"]["max"] * (1 - 1e-9)
    assert min(parts[name]["min"] for name in ("force", "noise", "integration", "observables")) > 0
    assert found.result["site_steps_per_second"]["max"] == pytest.approx(256 / found.result["seconds"]["min"])
    assert (found.result["halo_bytes"], found.result["evaluations"]) == (0, 1)


def test_parts_exclude_each_other_and_add_up() -> None:
    config = load_config(preset_name="paper-2601.04104", overrides={"lattice.extent": [8, 8], "force.kind": "atomic"})
    simulation = build_simulation(config, SerialTransport(), "cpu")
    fast, seconds = simulation.noise, 0.02

    def noise(at: int) -> torch.Tensor:
        time.sleep(seconds)
        return fast(at)

    simulation.noise = noise
    state = simulation.integrator.init(initial_state(config, simulation), simulation.forces)
    start = time.perf_counter()
    after, row = step._loop(simulation, state, 4)
    elapsed = time.perf_counter() - start
    assert after.step == 4
    assert row["noise"] >= seconds
    assert 0.5 * elapsed < 4 * sum(row[name] for name in PARTS if name in row) <= elapsed


def test_observables_count_by_their_cadence() -> None:
    shares = []
    for every in (1, 1000):
        assert bench(*STRONG, *BRIEF, "--set", f"output.observables_every={every}", "--output", "s") == 0
        shares.append(point().result["parts"]["observables"]["median"])
        POINT.unlink()
    assert shares[1] < 0.1 * shares[0]


def test_a_point_is_measured_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*STRONG, *BRIEF, "--output", "s") == 0
    before = POINT.read_bytes()
    assert bench(*STRONG, *BRIEF, "--output", "s") == 2
    assert "exists already" in capsys.readouterr().err
    assert bench(*STRONG, *BRIEF, "--output", "s", "--skip-existing") == 0
    assert POINT.read_bytes() == before


def test_a_point_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise DataError("no memory is left")

    monkeypatch.setattr(step, "_loop", fail)
    assert bench(*STRONG, *BRIEF, "--output", "s") == 2
    assert not POINT.exists()


def test_weak_points_have_one_tile_each() -> None:
    assert bench("weak", "--lattice-per-rank", "8x12", "--force", "atomic", *BRIEF, "--output", "w") == 0
    found = read(Path("w/weak-atomic-mixed-8x12-1.json"))
    assert found is not None
    assert (found.setting["lattice"], found.setting["lattice_per_rank"]) == ([8, 12], [8, 12])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*STRONG, "--repeats", "2", "--output", "s"], "--repeats 2 tell no spread: give 3 or more"),
        (["strong", "--force", "neurla", "--output", "s"], "neurla"),
        (["report", "nowhere"], "nowhere holds no record of a step"),
        (
            [*STRONG, "--set", "parallel.replicas=2", "--output", "s"],
            "parallel.replicas = 2 has no meaning for bench: set it to 1",
        ),
        (["strnog"], "strnog"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not Path("s").exists()


def record(kind: str, ranks: int, tile: tuple[int, int], machine: dict[str, Any] | None = None, **setting: Any) -> Record:
    """A point of 1 us a site and 0.4 ms for each doubling of the ranks."""
    sites = tile[0] * tile[1] * ranks
    parts = {"force": 1e-6 * sites / ranks, "sums": 4e-4 * (ranks.bit_length() - 1)}
    spreads = {
        name: dict.fromkeys(("median", "min", "max"), value) for name, value in {**parts, "all": sum(parts.values())}.items()
    }
    rate = dict.fromkeys(("median", "min", "max"), sites / spreads["all"]["median"])
    lattice = [n * p for n, p in zip(tile, GRIDS[ranks], strict=True)]
    common = {"threads": 1, "force": "neural", "dtype": "mixed", "repeats": 5, "ranks": ranks, "grid": list(GRIDS[ranks])}
    common |= {"lattice": lattice, "lattice_per_rank": list(tile), "sites": sites}
    result = {"seconds": spreads.pop("all"), "parts": spreads, "site_steps_per_second": rate}
    return Record(kind, {**MACHINE, **(machine or {})}, {**common, **setting}, result)


def test_a_folder_becomes_a_table_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong = [record("strong", ranks, (64 // GRIDS[ranks][0], 64 // GRIDS[ranks][1])) for ranks in (1, 2, 4)]
    elsewhere = [record("strong", ranks, (64 // ranks, 64), {"cpu": "another processor"}) for ranks in (1, 2)]
    for number, one in enumerate([*strong, *elsewhere, record("weak", 1, (32, 32)), record("weak", 4, (32, 32))]):
        one.write(tmp_path / f"{number}.json")
    (tmp_path / "kernels-2.json").write_text('{"schema": "hpc_holstein bench 1", "benchmark": "kernels"}')
    assert bench("report", tmp_path) == 0
    told = capsys.readouterr().out
    speed_up = 4.096 / (1.024 + 0.8)
    row = next(line for line in told.splitlines() if line.startswith("| 4 | 2x2 |")).split(" | ")
    assert row[5:7] == [f"{speed_up:.2f}", f"{100 * speed_up / 4:.0f} %"]
    assert "make 3 lines, which differ in sweep, processor, lattice" in told
    assert told.count("## Strong scaling: neural 64x64") == 2
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.md", "scaling.png"}
    assert (tmp_path / "report" / "report.md").read_text().startswith("# Scaling report")


def test_lines_are_of_one_machine_one_model_and_one_lattice() -> None:
    base = [record("strong", ranks, (64 // ranks, 64)) for ranks in (1, 2)]
    for changes in ({"machine": {"cpu": "b"}}, {"machine": {"git": "b"}}, {"force": "kpm"}, {"model": "b"}, {"threads": 2}):
        other = [record("strong", ranks, (64 // ranks, 64), **changes) for ranks in (1, 2)]
        assert [[one.ranks for one in line.records] for line in lines_of([*base, *other])] == [[1, 2], [1, 2]]
    node = record("strong", 4, (32, 32), {"host": "node12"})  # another node of the same cluster
    (line,) = lines_of([*base, node])
    assert [one.ranks for one in line.records] == [1, 2, 4]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a user error."""
    assert bench(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_folders_that_cannot_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no record of a step" in refused(capsys, "report", tmp_path)
    one = record("strong", 1, (64, 64))
    one.write(tmp_path / "a.json")
    one.write(tmp_path / "b.json")
    assert "are the same point" in refused(capsys, "report", tmp_path)
    (tmp_path / "b.json").write_text('{"schema": ')
    assert "b.json is broken (not JSON)" in refused(capsys, "report", tmp_path)
    (tmp_path / "b.json").write_text("{}")
    assert "is no benchmark record of this version" in refused(capsys, "report", tmp_path)
    content = json.loads((tmp_path / "a.json").read_text())
    del content["result"]["seconds"]
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert "result.seconds is missing" in refused(capsys, "report", tmp_path)
    (tmp_path / "b.json").unlink()
    assert bench("report", tmp_path) == 0
    assert "One number of ranks (1) tells no speed-up" in capsys.readouterr().out
    assert "exists already" in refused(capsys, "report", tmp_path)


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        (["kernels.py", "--quick"], {"network force", "KPM force"}),
        (["writers.py", "--folder", ".", "--lattice", "16"], {"checkpoint", "snapshot of a trajectory"}),
    ],
    ids=["kernels", "writers"],
)
def test_scripts_of_the_machine_and_their_guard(script: list[str], rows: set[str]) -> None:
    def run(output: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "machine" / script[0]),
            output,
            *script[1:],
            "--rounds",
            "1",
            *more,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

    done = run("then.json")
    assert done.returncode == 0, done.stderr
    content = json.loads(Path("then.json").read_text())
    assert {row["name"] for row in content["result"]["rows"]} >= rows
    for row in content["result"]["rows"]:
        assert row["times"] == pytest.approx(row["seconds"]["min"] / row["yardstick_seconds"])
        row["times"] = 1e-9
    Path("then.json").write_text(json.dumps(content))
    done = run("now.json", "--guard", "then.json")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("worse: ") == len(content["result"]["rows"])


def test_the_performance_model_finds_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "machine")
    model = __import__("model")
    true = model.Model(1.5, 1e-6, 3e-4, 4e-7, 5e-6, 1 / 4e9, 1.5e-9, 32.0, 4e-5)
    points = []
    for ranks in (1, 2, 4, 16):
        for side in (16, 64, 256):
            split = (ranks > 1) + (ranks > 2)
            evaluations = 2.5 if side < 64 else 1.5  # small lattices take more
            sent, sites = 32.0 * 2 * split * side, float(side**2)
            force = sites * evaluations * true.t_evaluation + true.t_fixed
            waiting = true.waiting(sites, ranks, split, sent)
            hidden = sites * true.t_hidden if ranks > 1 else 0.0
            rest = sites * true.t_rest
            points.append(model.Point(ranks, sites, evaluations, force, rest, waiting, hidden, sent, 2.0 * split * side, split))
    found = model.fit(points, true.t_message, true.t_byte)
    for name in vars(true):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-6), name
    assert found.efficiency(found.efficient_from(16), 16) == pytest.approx(0.9)
    with pytest.raises(SystemExit, match="two sizes of tile"):
        model.fit(points[:2], 0.0, 0.0)
