"""The doctor finds what works, what is absent and what is broken, on any rank, and says what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_holstein.cli import doctor, main, parser, probes_machine, probes_numerics
from hpc_holstein.cli.doctor import PROBES
from hpc_holstein.cli.probes_machine import Finding, Probe, require
from hpc_holstein.cli.session import Session
from hpc_holstein.domain.transport import Transport, run_in_process


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def states(told: str) -> dict[str, str]:
    """Name of each probe -> ok, absent or FAILED."""
    pattern = rf"^({'|'.join(probe.name for probe in PROBES)}) +(ok|absent|FAILED) "
    return dict(re.findall(pattern, told, flags=re.MULTILINE))


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(doctor, "PROBES", tuple(probe for probe in PROBES if probe.name in names))


def test_all_that_is_here_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--output", str(tmp_path), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    found = states(told)
    assert found.keys() == {probe.name for probe in PROBES}
    assert "FAILED" not in found.values()
    for name in ("threads", "memory", "disk", "HDF5", "file locks", "network", "KPM", "PETSc"):
        assert found[name] == "ok", told
    assert found["MPI"] == "absent"
    assert "mpirun -n 2 hpc-holstein doctor" in told
    assert "all that is there works" in told
    assert list(tmp_path.iterdir()) == []


def test_the_time_step_of_a_configuration(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "time step")
    assert main(["doctor"]) == 0
    assert "dt = 0.05 hbar/t_nn is safe: the stiffest lattice mode (1.72 t_nn/a^2)" in capsys.readouterr().out
    for change, words in (
        ("dynamics.dt=1.5", "<Q^2> of the stiffest lattice mode is 24 % too large"),
        ("dynamics.dt=3.5", "is unstable"),
        ("hamiltonian.k=0.5", "no ground state"),
    ):
        assert main(["doctor", "--set", change]) == 2
        told = capsys.readouterr().out
        assert states(told) == {"time step": "FAILED"}
        assert words in told
    assert main(["doctor", "--set", "dynamics.mass=500", "--set", "dynamics.dt=1.5"]) == 0


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "disk", "HDF5", "file locks")
    assert main(["doctor", "--output", str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().out
    assert states(told) == {"disk": "FAILED", "HDF5": "FAILED", "file locks": "FAILED"}
    assert "no folder can be made in" in told
    assert "-> choose a folder that can be written with --output" in told
    assert "3 of 3 failed" in told


@pytest.mark.parametrize(("always", "state", "words"), [(True, "FAILED", "given twice"), (False, "absent", "has no locks")])
def test_locks_that_do_not_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], always: bool, state: str, words: str
) -> None:
    only(monkeypatch, "file locks")
    monkeypatch.setattr(probes_machine, "_locked", lambda descriptor: always)
    assert main(["doctor", "--output", str(tmp_path)]) == (2 if always else 0)
    told = capsys.readouterr().out
    assert states(told) == {"file locks": state}
    assert words in told


def test_one_writer_and_all_of_them_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "HDF5")

    def body(transport: Transport) -> int:
        return doctor.execute(parser().parse_args(["doctor", "--output", str(tmp_path)]), Session.of(transport))

    assert run_in_process(2, body) == [0, 0]
    told = capsys.readouterr().out
    assert re.search(r"0\.79 MB by writers 1 [\d.e+]+ ms, 2 [\d.e+]+ ms$", told, flags=re.MULTILINE), told
    real = probes_machine.TrajectoryWriter

    def wrong(path: Path, *rest: Any) -> Any:
        writer = real(path, *rest)
        if path.parent.name == "writers-2":
            write = writer.write_snapshot
            monkeypatch.setattr(writer, "write_snapshot", lambda state: write(state.moved(q=0 * state.q)))
        return writer

    monkeypatch.setattr(probes_machine, "TrajectoryWriter", wrong)
    assert run_in_process(2, body) == [2, 2]
    assert "what 2 writers wrote is not what was read" in capsys.readouterr().out


def test_forces_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "KPM", "network")
    monkeypatch.setattr(probes_numerics, "_reference", lambda: torch.zeros(6, 8, 1, 1))
    assert main(["doctor", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    assert states(told) == {"KPM": "FAILED", "network": "ok"}
    assert "forces differ from those of diagonalization by" in told


def test_what_is_not_installed_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "PETSc")
    monkeypatch.setattr(probes_numerics, "find_spec", lambda name: None)
    assert main(["doctor", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert states(told) == {"PETSc": "absent"}
    assert "-> pip install" in told


def test_a_failure_on_one_rank_is_told_and_counts_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(place: Any) -> Finding:
        require(place.session.transport.rank != 1, "this one is broken")
        return Finding("ok", "fine")

    disk = next(probe for probe in PROBES if probe.name == "disk")
    monkeypatch.setattr(doctor, "PROBES", (Probe("MPI", look, "mend it"), disk))

    def body(transport: Transport) -> int:
        return doctor.execute(parser().parse_args(["doctor", "--output", str(tmp_path)]), Session.of(transport))

    assert run_in_process(3, body) == [2, 2, 2]
    told = capsys.readouterr().out
    assert states(told) == {"MPI": "FAILED", "disk": "ok"}
    assert "rank 1: RuntimeError: this one is broken" in told
    assert "-> mend it" in told


def test_slurm_and_threads_against_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "Slurm", "threads")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert main(["doctor", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "job_id 7, ntasks 4; 1 rank(s) were started" in told
    assert "-> srun or mpirun -n 4 uses all tasks" in told
    assert "start fewer, or give fewer threads" in told
