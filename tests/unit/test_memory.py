"""What a run will need: against the memory that one takes, and refused with what would do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.config.builders import build_network, build_system
from hpc_holstein.config.loading import load_config
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport, run_in_process
from hpc_holstein.errors import ConfigError, DomainError
from hpc_holstein.interfaces import ForceProvider, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.memory import host_bytes, require_room
from hpc_holstein.simulation import memory
from hpc_holstein.simulation.memory import MemoryNeed, require_memory

GIB = 2**30
PEAK = """
import re, sys
from pathlib import Path
from hpc_holstein.cli import main
from hpc_holstein.memory import process_bytes
main([*sys.argv[1:], "--lattice", "10x10", "--output", "small"])  # what is imported or compiled when first used is there
print("base", process_bytes()[1] / 2**30)
code = main(sys.argv[1:])
# not ru_maxrss, which counts what the process that started this one had
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("preset", "force", "dtype", "every", "closed"),
    [
        ("paper-2601.04104", "atomic", "mixed", 50, "true"),
        ("paper-2601.04104", "atomic", "mixed", 1, "true"),
        ("paper-2601.04104", "atomic", "mixed", 50, "false"),
        ("paper-2510.20659", "atomic", "mixed", 50, "true"),
        ("paper-2510.20659", "atomic", "mixed", 1, "true"),
        pytest.param("paper-2601.04104", "neural", "float32", 1, "true", marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_what_a_run_takes(tmp_path: Path, preset: str, force: str, dtype: str, every: int, closed: str) -> None:
    """With snapshots on their way at each step, and without any after the first; forces before the third are held meanwhile.

    Freed memory goes back to the system, as that of larger tiles does anyway.
    """
    given = ["run", "--preset", preset, "--lattice", "1200x1200", "--steps", "3", "--output", "r", "--threads", "1"]
    given += ["--force", force, "--dtype", dtype, "--set", "ensemble.kind=grand-canonical"]
    given += ["--set", f"output.snapshot_every={every}", "--set", f"lattice.periodic=[{closed},{closed}]"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, there, base, peak = (
        float(re.findall(pattern, done.stdout, re.DOTALL)[-1])
        for pattern in (r"base .*memory: ([\d.]+) GiB", r"of ([\d.]+) GiB on the rank", r"base ([\d.]+)", r"peak ([\d.]+)")
    )
    assert said - base == pytest.approx(peak - base, rel=0.25)
    assert there == pytest.approx(host_bytes() / GIB, rel=0.01)


def refused(monkeypatch: pytest.MonkeyPatch, extent: tuple[int, int], ranks: int, there: float) -> str:
    """Why ``ranks`` on a host of ``there`` bytes, of which each takes 1 GiB from the start, cannot hold a lattice."""
    monkeypatch.setattr(memory, "host_bytes", lambda: there)
    monkeypatch.setattr(memory, "process_bytes", lambda: (0.0, float(GIB)))

    def body(transport: Transport) -> str:
        with pytest.raises(DomainError) as caught:
            require_memory(CartesianDomain(square.build(extent), transport), transport, torch.float64)
        return str(caught.value)

    messages = run_in_process(ranks, body)
    assert len(set(messages)) == 1
    return messages[0]


def test_what_would_do_is_said_and_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """116 bytes a site all the time and 64 more in a step; on rank 0 72 of the whole lattice instead, which it gathers."""
    extent, sites = (20_000, 20_000), 4e8
    told = refused(monkeypatch, extent, 2, 64.0 * GIB)
    assert f"20000x20000 cells on 2 rank(s) need {2 + (116 + 32 + 72) * sites / GIB:.3g} GiB on " in told
    assert "64 GiB are there: give a smaller lattice, or 4 ranks on 2 hosts like this one" in told
    needs = [
        MemoryNeed("a", 64.0 * GIB, GIB, 116 * sites / 4, 64 * sites / 4, 72 * sites if first else 0.0) for first in (1, 0)
    ]
    assert sum(need.bytes for need in needs) < 64 * GIB


def test_ranks_of_a_host_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(monkeypatch, (2000, 2000), 12, 5.0 * GIB)
    assert "need 12.9 GiB" in told  # each rank 1, and 116 + 64 * 11/12 + 72 bytes a site
    assert "each of 12 ranks there takes 1 GiB before it starts, so put at most 2 there" in told


def test_a_lattice_that_rank_0_cannot_gather_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no number of ranks would do, since rank 0 gathers the lattice" in refused(
        monkeypatch, (30_000, 40_000), 4, 64.0 * GIB
    )


def test_forces_count_where_they_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(ForceProvider):
        reach, tolerance = 1, None

        def __call__(self, state: State) -> ForceResult:
            raise NotImplementedError

        def memory_bytes(self, dtype: torch.dtype) -> float:
            return 1e6 * GIB * dtype.itemsize

    # the process that runs the tests has a size of its own
    monkeypatch.setattr(memory, "process_bytes", lambda: (0.5 * GIB, 0.5 * GIB))
    domain = CartesianDomain(square.build((4, 4)), SerialTransport())
    assert "memory: 0.5 GiB" in require_memory(domain, SerialTransport(), torch.float64)
    with pytest.raises(DomainError, match=r"need 8e\+06 GiB"):
        require_memory(domain, SerialTransport(), torch.float64, Greedy())


def test_limits_of_slurm_and_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    whole = host_bytes()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert host_bytes() == 100 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert host_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lattice", "30000x30000", "--random", "1"], "1 snapshots of 30000x30000 cells need .* give a smaller lattice"),
        (["--random", "1000000000000"], r"1000000000000 snapshots of 40x40 cells need .* give at most \d+$"),
        (["--quenches", "1000000000"], r"40000000000 snapshots of 40x40 cells need .* give at most \d+$"),
        (["--quenches", "1000000", "--per-quench", "1000000000000"], r"2001000000 snapshots .* give at most \d+$"),
        (["--random", "2", "--more-mu", "1000000000"], r"1000000000 further chemical potentials \(--more-mu\) .* at most \d+$"),
    ],
)
def test_labels_that_have_no_room_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["label", *arguments, "--output", "a.h5"]) == 2
    assert re.search(words, capsys.readouterr().err.strip())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [{"copies": 10**9}, {"levels": 10**12}, {"kind": "efnn", "widths": [10**6, 10**6]}])
def test_a_network_that_has_no_room_is_refused_before_it_is_made(model: dict[str, Any]) -> None:
    config = load_config(preset_name="paper-2601.04104", overrides={f"model.{name}": value for name, value in model.items()})
    with pytest.raises(
        ConfigError, match=r"weights or more, which \[model\] asks for, need .* give fewer copies, levels or widths"
    ):
        build_network(config, build_system(config))


def test_room_is_shared_by_the_processes_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_holstein.memory.free_bytes", lambda: 1000.0)
    require_room("pieces", 10, 100.0)
    require_room("pieces", 5, 100.0, processes=2)
    with pytest.raises(ConfigError, match=r"6 pieces need .* on each rank and .* are free: give at most 5"):
        require_room("6 pieces", 6, 100.0, processes=2)
