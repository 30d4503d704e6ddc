"""``deterministic``: no bit of a run depends on the ranks, the rank grid, the threads or where it was interrupted."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import write_small_network
from injected import AtCall, command

from hpc_holstein.cli import main, parser, run
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.output import checkpoint

PRESET = "paper-2601.04104"
CASES = {  # on tiles of several sizes
    "neural": ["--force", "model.safetensors", "--lattice", "46x34"],
    "neural-float64": [
        "--force",
        "model.safetensors",
        "--lattice",
        "46x34",
        "--dtype",
        "float64",
        "--set",
        SCHEME := "dynamics.scheme=baoab",
    ],
    "default": ["--force", "neural", "--lattice", "70x26", "--set", "ensemble.kind=grand-canonical", "--set", SCHEME],
    "honeycomb": ["--set", "lattice.kind=honeycomb", "--force", "holstein-honeycomb", "--lattice", "34x22"],
    "atomic": ["--force", "atomic", "--lattice", "22x14", "--dtype", "float32"],
    "exact": ["--force", "exact", "--lattice", "8x10"],
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_small_network(Path("model.safetensors"))


def arguments(output: str, steps: int, *more: str) -> list[str]:
    cadence = ["--set", "output.snapshot_every=4", "--set", "output.observables_every=2"]
    return ["run", "--preset", PRESET, *cadence, "--deterministic", *more, "--steps", str(steps), "--output", output]


def start(transport: Transport, output: str, steps: int, *more: str) -> int:
    return run.execute(parser().parse_args(arguments(output, steps, *more)), Session.of(transport))


def contents(folder: str) -> dict[str, Any]:
    """Datasets of the trajectory and of the last checkpoint, and what the forces told."""
    with h5py.File(f"{folder}/trajectory.h5") as file:
        found: dict[str, Any] = {name: data[...] for name, data in file.items() if isinstance(data, h5py.Dataset)}
    stored, _ = checkpoint.newest(Path(folder) / "checkpoints")
    assert stored is not None
    return found | {f"checkpoint {name}": array for name, array in stored.arrays.items()} | {"info": stored.info}


def require_same_bits(first: str, second: str) -> None:
    one, other = contents(first), contents(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_ranks_writes_the_same_bits(case: str) -> None:
    assert start(SerialTransport(), "alone", 8, *CASES[case]) == 0
    for ranks, grid in ((2, "1x2"), (3, "3x1"), (4, "2x2")):
        folder = f"on-{ranks}"
        assert set(run_in_process(ranks, lambda t, f=folder, g=grid: start(t, f, 8, *CASES[case], "--grid", g))) == {0}
        require_same_bits("alone", folder)


@pytest.mark.parametrize("case", ["neural", "exact"])
def test_other_ranks_and_threads_go_on_with_the_same_bits(case: str) -> None:
    """Ranks that are threads of one process share its number of threads."""
    assert start(SerialTransport(), "alone", 16, *CASES[case]) == 0
    assert start(SerialTransport(), "parts", 6, *CASES[case]) == 0
    assert set(run_in_process(3, lambda t: start(t, "parts", 10, *CASES[case]))) == {0}
    assert set(run_in_process(2, lambda t: start(t, "parts", 16, *CASES[case], "--threads", "2"))) == {0}
    torch.set_num_threads(1)
    require_same_bits("alone", "parts")


def test_after_a_kill_other_ranks_go_on_with_the_same_bits(tmp_path: Path) -> None:
    case = [*CASES["neural"], "--set", "output.checkpoint_every=5"]
    assert start(SerialTransport(), "alone", 16, *case) == 0
    given = arguments("parts", 16, *case)
    ended = command(tmp_path, given, AtCall(80))  # system calls: while it writes
    assert ended.code == -signal.SIGKILL, ended.told
    stored, _ = checkpoint.newest(Path("parts/checkpoints"))
    assert stored is not None
    assert 0 < stored.step < 16
    assert set(run_in_process(3, lambda t: start(t, "parts", 16, *case))) == {0}
    require_same_bits("alone", "parts")


def test_sums_in_rank_order_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(values: torch.Tensor, domain: CartesianDomain) -> torch.Tensor:
        return domain.allsum(values.flatten(1).double().sum(dim=1))

    monkeypatch.setattr("hpc_holstein.forces._canonical.global_sum", plain)
    assert start(SerialTransport(), "alone", 8, *CASES["neural"]) == 0
    assert set(run_in_process(2, lambda t: start(t, "two", 8, *CASES["neural"]))) == {0}
    with pytest.raises(AssertionError):
        require_same_bits("alone", "two")


@pytest.mark.parametrize("kind", ["kpm", "local"])
def test_a_kind_that_depends_on_the_ranks_is_refused(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--preset", PRESET, "--lattice", "8x8", "--force", kind, "--deterministic", "--steps", "2"]) == 2
    told = capsys.readouterr().err
    assert f"force.kind = '{kind}'" in told
    assert "use neural, exact or atomic" in told


def test_a_network_that_pytorch_evaluates_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hpc_holstein.network.models._enn.Enn.is_fused", lambda self, device: False)
    assert main(["run", "--preset", PRESET, "--lattice", "24x24", "--force", "neural", "--deterministic", "--steps", "2"]) == 2
    told = capsys.readouterr().err
    assert "deterministic = true needs a network that is compiled" in told
    assert told.count("\n") == 1


def test_a_run_keeps_the_promise_it_was_started_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(SerialTransport(), "r", 4, *CASES["atomic"]) == 0
    more = CASES["atomic"]
    assert main(["run", "--preset", PRESET, *more, "--steps", "8", "--output", "r"]) == 2
    assert "parallel.deterministic = True and here it is False" in capsys.readouterr().err
