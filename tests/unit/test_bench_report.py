"""The performance model finds the parameters that made a set of records; the report compares only what can be compared."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_holstein.bench import guard
from hpc_holstein.bench.model import Model, fit
from hpc_holstein.bench.record import Record, read
from hpc_holstein.bench.report import Report
from hpc_holstein.cli import main
from hpc_holstein.errors import ConfigError, DataError

TRUE = Model(
    evaluations=1.5,
    t_evaluation=1e-6,
    t_evaluation_error=0.0,
    t_rest=4e-7,
    t_fixed=3e-4,
    t_fixed_error=0.0,
    t_message=5e-6,
    t_byte=1 / 4e9,
    t_hidden=1.5e-9,
    t_sum=4e-5,
    t_sum_error=0.0,
    t_written=1e-8,
    bytes_per_cell=32.0,
    bytes_site=250.0,
    bytes_fixed=6e7,
    error=0.0,
    points=0,
    most_ranks=16,
    measured_messages=False,
)
GRIDS = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2), 16: (4, 4)}
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


def same(value: float) -> dict[str, float]:
    return {"median": value, "min": 0.9 * value, "max": 1.1 * value}


def record(kind: str, ranks: int, tile: tuple[int, int], machine: dict[str, Any] | None = None, **setting: Any) -> Record:
    """What ``TRUE`` would have measured, with the waiting written out again here."""
    grid = GRIDS[ranks]
    sides = sum(2 * tile[1 - axis] for axis in (0, 1) if grid[axis] > 1)
    messages = {0: 0, 1: 2, 2: 8}[sum(parts > 1 for parts in grid)]
    here = tile[0] * tile[1]
    evaluations = 2.5 if max(tile) < 64 else TRUE.evaluations  # small lattices take more
    sent = TRUE.bytes_per_cell * sides
    halo = max(0.0, messages * TRUE.t_message + sent * TRUE.t_byte - here * TRUE.t_hidden)
    parts = {
        "force": here * evaluations * TRUE.t_evaluation + TRUE.t_fixed,
        "halo": halo,
        "sums": TRUE.t_sum * math.log2(ranks),
        "noise": 0.5 * here * TRUE.t_rest,
        "integration": 0.25 * here * TRUE.t_rest,
        "observables": 0.25 * here * TRUE.t_rest,
        "output": TRUE.t_written * here * ranks,
    }
    seconds = sum(parts.values())
    common = {"of": "step", "threads": 1, "force": "neural", "dtype": "mixed", "snapshot_every": 50, "repeats": 5}
    return Record(
        kind,
        {**MACHINE, **(machine or {})},
        {
            **common,
            "ranks": ranks,
            "grid": list(grid),
            "lattice": [n * p for n, p in zip(tile, grid, strict=True)],
            "lattice_per_rank": list(tile),
            "sites": here * ranks,
            **setting,
        },
        {
            "unit": "step",
            "seconds": same(seconds),
            "parts": {name: same(value) for name, value in parts.items()},
            "hidden_seconds": same(here * TRUE.t_hidden if ranks > 1 else 0.0),
            "halo_bytes": sent,
            "messages": messages,
            "evaluations": evaluations,
            "bytes_per_rank": TRUE.bytes_site * here + TRUE.bytes_fixed,
            "site_steps_per_second": same(here * ranks / seconds),
        },
    )


def weak() -> list[Record]:
    return [record("weak", ranks, (side, side)) for ranks in GRIDS for side in (16, 64, 256)]


def test_the_fit_finds_the_parameters_of_hidden_and_open_halos() -> None:
    found = fit(weak())
    halos = [r.part("halo") for r in weak() if r.ranks > 1]
    assert min(halos) == 0 < max(halos)
    exact = ("evaluations", "t_evaluation", "t_rest", "t_fixed", "t_message", "t_byte", "t_hidden", "t_sum", "t_written")
    for name in (*exact, "bytes_per_cell", "bytes_site"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-5), name
    assert found.error < 1e-6
    assert (found.points, found.most_ranks, found.measured_messages) == (15, 16, False)


def test_the_errors_are_the_scatter_of_the_parameters() -> None:
    """Over many sets of records whose repeats have normal errors of 5 %."""
    generator, found = np.random.default_rng(0), []
    for _ in range(100):
        records = weak()
        for one in records:
            for part in one.result["parts"].values():
                repeats = part["median"] * generator.normal(1, 0.05, size=5)
                part |= {"median": float(np.median(repeats)), "min": float(repeats.min()), "max": float(repeats.max())}
        found.append(fit(records, {"neighbour_latency_s": TRUE.t_message, "neighbour_bandwidth": 1 / TRUE.t_byte}))
    for name in ("t_evaluation", "t_fixed"):
        scatter = np.std([getattr(one, name) for one in found])
        told = np.sqrt(np.mean([getattr(one, f"{name}_error") ** 2 for one in found]))
        assert told == pytest.approx(scatter, rel=0.2), name
        assert np.mean([getattr(one, name) for one in found]) == pytest.approx(getattr(TRUE, name), rel=0.02)
    one = found[0]
    assert one.standard_error(1e12, 1) == pytest.approx(1.5e12 * one.t_evaluation_error)
    assert one.standard_error(0.0, 4) == pytest.approx(math.hypot(one.t_fixed_error, 2 * one.t_sum_error))


def test_measured_messages_are_taken_as_they_are() -> None:
    found = fit(weak(), {"neighbour_latency_s": 1e-6, "neighbour_bandwidth": 1e10})
    assert (found.t_message, found.t_byte, found.measured_messages) == (1e-6, 1e-10, True)
    assert found.t_sum > TRUE.t_sum  # what the halos took longer than these messages


def test_where_the_efficiency_falls_under_ninety_percent() -> None:
    sites = np.logspace(2, 6, 4001)
    for ranks in (16, 10_000):
        efficient = np.array([TRUE.efficiency(s, ranks) >= 0.9 for s in sites])
        found = TRUE.efficient_from(ranks)
        assert found == pytest.approx(sites[np.flatnonzero(~efficient)[-1] + 1], rel=5e-3)


@pytest.mark.parametrize(
    "records",
    [
        [record("strong", 1, (64, 64)), record("strong", 2, (32, 64))],
        [record("strong", 1, (n, n)) for n in (16, 32, 64)],
        [record("weak", n, (64, 64)) for n in (1, 2, 4, 8)],
    ],
    ids=["two points", "one rank", "one tile"],
)
def test_too_few_points_are_refused(records: list[Record]) -> None:
    with pytest.raises(DataError, match=r"cannot tell the parameters of the model: measure 3 or more"):
        fit(records)


def test_a_folder_becomes_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strong = [record("strong", ranks, (64 // GRIDS[ranks][0], 64 // GRIDS[ranks][1])) for ranks in (1, 2, 4)]
    elsewhere = [record("strong", ranks, (64 // ranks, 64), {"cpu": "another processor"}) for ranks in (1, 2)]
    for number, one in enumerate([*strong, *elsewhere, record("weak", 1, (32, 32)), record("weak", 4, (32, 32))]):
        one.write(tmp_path / f"{number}.json")
    assert main(["bench", "report", str(tmp_path), "--predict", "10000"]) == 0
    told = capsys.readouterr().out
    speed_up = strong[0].seconds / strong[2].seconds
    row = next(line for line in told.splitlines() if line.startswith("| 4 | 2x2 |")).split(" | ")
    assert row[5:7] == [f"{speed_up:.2f}", f"{100 * speed_up / 4:.0f} %"]
    assert "make 3 lines, which differ in sweep, processor, lattice" in told
    assert told.count("## Strong scaling: neural 64x64") == 2
    assert "Nothing was measured beyond 4 rank(s)" in told
    step = next(line for line in told.splitlines() if line.startswith("| 10000 | 1e+09 |")).split(" | ")[3]
    assert re.fullmatch(r"\d[\d.e+]* \+- \d+ %", step), step
    assert "No model: 2 point(s)" in told
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"report.md", "strong.png", "weak.png", "rates.png", "time_split.png"}
    assert (tmp_path / "report" / "report.md").read_text().startswith("# Scaling report")


def test_lines_are_of_one_machine_one_model_and_one_lattice() -> None:
    base = [record("strong", ranks, (64 // ranks, 64)) for ranks in (1, 2)]
    for changes in ({"machine": {"cpu": "b"}}, {"machine": {"git": "b"}}, {"force": "kpm"}, {"model": "b"}, {"threads": 2}):
        other = [record("strong", ranks, (64 // ranks, 64), **changes) for ranks in (1, 2)]
        assert [group.ranks for group in Report.of([*base, *other]).groups] == [[1, 2], [1, 2]]
    node = record("strong", 4, (32, 32), {"host": "node12"})  # another node of the same cluster
    assert [group.ranks for group in Report.of([*base, node]).groups] == [[1, 2, 4]]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a user error."""
    assert main(["bench", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_folders_that_cannot_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no benchmark record" in refused(capsys, "report", tmp_path)
    one = record("strong", 1, (64, 64))
    one.write(tmp_path / "a.json")
    assert "nothing can be predicted: 1 point(s)" in refused(capsys, "report", tmp_path, "--predict", 4)
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
    assert main(["bench", "report", str(tmp_path)]) == 0
    assert "One number of ranks (1) tells no speed-up" in capsys.readouterr().out
    assert "exists already" in refused(capsys, "report", tmp_path)


def kernels(times: float, name: str = "halo", ranks: int = 1) -> Record:
    return Record(
        "kernels", MACHINE, {"ranks": ranks}, {"rows": [{"name": name, "yardstick": "bare", "times": times}]}, Path("then.json")
    )


def test_the_guard_compares_ratios() -> None:
    assert guard.compare(kernels(1.49), kernels(1.0), 1.5) == []
    (sentence,) = guard.compare(kernels(1.6), kernels(1.0), 1.5)
    assert "halo takes 1.60 x the time of bare, more than 1.5 times the 1.00 of then.json" in sentence
    assert guard.compare(kernels(math.nan), kernels(1.0), 1.5)
    with pytest.raises(ConfigError, match="no ratio that was measured now"):
        guard.compare(kernels(1.0), kernels(1.0, name="another"), 1.5)
    with pytest.raises(ConfigError, match=r"on 2 rank\(s\) and this is bench kernels on 1"):
        guard.compare(kernels(1.0), kernels(1.0, ranks=2), 1.5)


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = record("weak", 2, (8, 8))
    one.write(tmp_path / "one.json")
    again = read(tmp_path / "one.json")
    assert (again.machine, again.setting, again.result) == (one.machine, one.setting, one.result)
    assert sum(again.shares.values()) == pytest.approx(100)
