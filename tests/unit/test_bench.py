"""``bench strong|weak|kernels|io`` measure what they say, write whole records or none, and refuse what makes no sense."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_holstein.bench import ceilings, kernels, step, timing
from hpc_holstein.bench.record import read
from hpc_holstein.bench.step import PARTS, CountedTransport
from hpc_holstein.cli import main
from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_simulation, initial_state
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.lattice import square

STRONG = ["strong", "--lattice", "16x16", "--force", "atomic"]
BRIEF = ["--steps", "2", "--repeats", "3", "--warm-up", "1"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, small yardsticks, short rounds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(timing, "BUDGET_SECONDS", 0.0)
    for name, value in {"COPY_NUMBERS": 1 << 12, "MATRIX": 64, "IMAGE": 16}.items():
        monkeypatch.setattr(ceilings, name, value)


def bench(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


def test_a_point_says_where_a_step_spends_its_time() -> None:
    assert bench(*STRONG, *BRIEF, "--output", "s") == 0
    assert [path.name for path in Path("s").iterdir()] == ["strong-atomic-mixed-16x16-1.json"]
    found = read(Path("s/strong-atomic-mixed-16x16-1.json"))
    assert found.setting["lattice"] == [16, 16]
    assert (found.ranks, found.setting["grid"], found.setting["steps"], found.setting["repeats"]) == (1, [1, 1], 2, 3)
    assert found.machine.keys() >= {"host", "cpu", "device", "load", "versions", "git", "dirty", "mpi"}
    parts = found.result["parts"]
    assert tuple(parts) == PARTS
    assert all(0 <= value["min"] <= value["median"] <= value["max"] for value in parts.values())
    assert sum(value["min"] for value in parts.values()) <= found.result["seconds"]["min"] * (1 + 1e-9)
    assert sum(value["max"] for value in parts.values()) >= found.result["seconds"]["max"] * (1 - 1e-9)
    assert min(parts[name]["min"] for name in ("force", "noise", "integration", "observables", "output")) > 0
    assert found.result["site_steps_per_second"]["max"] == pytest.approx(256 / found.result["seconds"]["min"])
    assert (found.result["halo_bytes"], found.result["messages"]) == (0, 0)


def test_parts_exclude_each_other_and_add_up() -> None:
    config = load_config(preset_name="paper-2601.04104", overrides={"lattice.extent": [8, 8], "force.kind": "atomic"})
    counted = CountedTransport(SerialTransport())
    simulation = build_simulation(config, counted, "cpu")
    fast, seconds = simulation.noise, 0.02

    def noise(at: int) -> torch.Tensor:
        time.sleep(seconds)
        return fast(at)

    simulation.noise = noise
    state = simulation.integrator.init(initial_state(config, simulation), simulation.forces)
    start = time.perf_counter()
    after, row = step._loop(simulation, state, 4, counted)
    elapsed = time.perf_counter() - start
    assert after.step == 4
    assert row["noise"] >= seconds
    assert 0.5 * elapsed < 4 * sum(row[name] for name in PARTS if name in row) <= elapsed


def test_rows_and_snapshots_count_by_their_cadence(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def seconds(action: Any, _: Transport) -> float:
        done.append(action())
        return 12.0

    monkeypatch.setattr(step, "_seconds", seconds)
    every = ["--set", "output.observables_every=3", "--set", "output.snapshot_every=8"]
    assert bench(*STRONG, *BRIEF, *every, "--output", "s") == 0
    parts = read(Path("s/strong-atomic-mixed-16x16-1.json")).result["parts"]
    assert [parts[name]["median"] for name in ("observables", "output")] == [4.0, 1.5]
    assert len(done) == 6  # a row and a snapshot in each repeat


def test_a_point_is_measured_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*STRONG, *BRIEF, "--output", "s") == 0
    before = Path("s/strong-atomic-mixed-16x16-1.json").read_bytes()
    assert bench(*STRONG, *BRIEF, "--output", "s") == 2
    assert "exists already" in capsys.readouterr().err
    assert bench(*STRONG, *BRIEF, "--output", "s", "--skip-existing") == 0
    assert Path("s/strong-atomic-mixed-16x16-1.json").read_bytes() == before


def test_a_point_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        assert list(Path("s").iterdir())
        raise DataError("the disk is full")

    monkeypatch.setattr(step, "_loop", fail)
    assert bench(*STRONG, *BRIEF, "--output", "s") == 2
    assert not Path("s").exists()


def test_a_point_that_is_ended_leaves_nothing() -> None:
    command = [sys.executable, "-m", "hpc_holstein", "bench", *STRONG, "--steps", "1000000", "--output", "s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while not list(Path().glob("s/.bench-*/trajectory.h5")) and time.monotonic() < limit:
        time.sleep(0.05)
    assert Path("s").exists()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not Path("s").exists()


def test_weak_points_have_one_tile_each() -> None:
    assert bench("weak", "--lattice-per-rank", "8x12", "--force", "atomic", *BRIEF, "--output", "w") == 0
    found = read(Path("w/weak-atomic-mixed-8x12-1.json"))
    assert (found.setting["lattice"], found.setting["lattice_per_rank"]) == ([8, 12], [8, 12])


def test_epochs_of_training() -> None:
    Path("c.toml").write_text('preset = "paper-2601.04104"\n[model]\nkind = "enn"\ncopies = 1\nradii = [1, 0]\nlevels = 2\n')
    assert bench("strong", "c.toml", "--of", "training", "--lattice", "8x8", "--repeats", "3", "--output", "t") == 0
    found = read(Path("t/strong-training-enn-8x8-1.json"))
    assert (found.setting["of"], found.result["unit"], found.result["parts"]) == ("training", "epoch", {})
    assert found.setting["sites"] == 64 * found.setting["snapshots"]
    assert bench("report", "t") == 0
    assert "training of enn" in Path("t/report/report.md").read_text()


def test_kernels_against_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "HALOS", ((2, 1),))
    monkeypatch.setattr(kernels.Sizes, "on", lambda *_: kernels.Sizes(16, 8, 8))
    assert bench("kernels", "--quick", "--repeats", "3", "--output", "k") == 0
    found = read(Path("k/kernels-1.json"))
    assert found.result["ceilings"].keys() == {"copy_bytes_per_s", "gemm_flops", "convolution_flops"}
    assert [(row["name"], row["yardstick"]) for row in found.result["rows"]] == [
        ("network force", "its operations in a large convolution"),
        ("KPM force", "three words a moment, copied"),
        ("halo of 2 x 1 numbers", "PETSc DMDA"),
        ("PETSc solve", "KPM at the same sites"),
    ]
    for row in found.result["rows"]:
        assert row["times"] == pytest.approx(row["seconds"]["min"] / row["yardstick_seconds"])


class TwoWays(torch.nn.Module):
    """A convolution, which PyTorch does not see without gradients."""

    reach = 1

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.ones(4, 1, 3, 3))

    def forward(self, field: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return field[:, 1:-1, 1:-1]
        return torch.nn.functional.conv2d(field[:, None], self.kernel).sum(dim=1)


def test_operations_are_those_of_pytorch_whoever_evaluates_the_network() -> None:
    with torch.no_grad():
        assert kernels.operations(TwoWays()) == 2 * 9 * 4


def test_writers_and_their_guard(capsys: pytest.CaptureFixture[str]) -> None:
    io = ["io", "--lattice", "16x16", "--repeats", "3"]
    assert bench(*io, "--output", "i") == 0
    path = Path("i/io-16x16-1.json")
    content = json.loads(path.read_text())
    assert [row["name"] for row in content["result"]["rows"]] == ["checkpoint", "snapshot of a trajectory"]
    assert [file.name for file in Path("i").iterdir()] == [path.name]
    for times, code in ((1e9, 0), (1e-9, 1)):
        for row in content["result"]["rows"]:
            row["times"] = times
        Path("then.json").write_text(json.dumps(content))
        assert bench(*io, "--guard", "then.json") == code
    told = capsys.readouterr().out
    assert "no ratio is worse than 1.5 times" in told
    assert told.count("worse: ") == 2
    assert sorted(file.name for file in Path().iterdir()) == ["i", "then.json"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*STRONG, "--repeats", "2", "--output", "s"], "--repeats 2 tell no spread: give 3 or more"),
        (["weak", "--of", "training", "--grid", "1x1", "--output", "s"], "--grid has no meaning with --of training"),
        (["kernels", "--force", "kpm", "--output", "s"], "--force kpm has no meaning for bench kernels"),
        (["io"], "bench io has nowhere to write: give --output FOLDER, or --guard RECORD"),
        (["kernels", "--guard", "nothing.json"], "the record nothing.json cannot be read"),
        (["strong", "--force", "neurla", "--output", "s"], "neurla"),
        (["report", "nowhere"], "nowhere holds no benchmark record"),
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


def test_messages_are_counted() -> None:
    def body(transport: Transport) -> int:
        counted = CountedTransport(transport)
        domain = CartesianDomain(square.build((8, 6)), counted, grid=(transport.size, 1))
        domain.pad(torch.zeros(*domain.local_extent, 1, 1, dtype=torch.float64), 2)
        return counted.messages

    assert run_in_process(3, body) == [2, 2, 2]
    assert run_in_process(1, body) == [0]


def test_actions_are_timed_in_turn() -> None:
    order: list[str] = []
    found = timing.in_turn({name: lambda name=name: order.append(name) for name in "ab"}, SerialTransport(), 3)  # type: ignore[misc]
    assert found.keys() == {"a", "b"}
    assert all(0 < value["min"] <= value["median"] <= value["max"] for value in found.values())
    assert sum(one != other for one, other in pairwise(order)) == 9  # warm-up, how long one takes, three rounds: ab each


def test_the_rank_grid_of_tiles() -> None:
    assert [kernels.tile_grid(ranks) for ranks in (1, 2, 3, 4, 6, 16)] == [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 4)]
