"""What a run takes for its own in its folder: exact names, one identity, a summary that agrees; all else stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from hpc_holstein.cli import main
from hpc_holstein.output import checkpoint
from hpc_holstein.output.summary import finished

SETTINGS = ["--preset", "paper-2601.04104", "--lattice", "8x6", "--force", "atomic", "--set", "output.checkpoint_every=10"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(steps: int, *more: str, output: str = "r") -> int:
    return main(["run", *SETTINGS, "--steps", str(steps), "--output", output, *more])


def path(step: int, output: str = "r") -> Path:
    return checkpoint.path_of(Path(output) / "checkpoints", step)


def test_a_copy_under_another_name_is_neither_read_nor_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """`step-backup.h5` sorts behind all numbers."""
    assert run(20) == 0
    folder = Path("r/checkpoints")
    mine = [
        "step-backup.h5",
        "step-30.h5",
        "step-0000000000030.h5",
        "step-00000000003x.h5",
        ".step-mine.tmp",
        "step-backup.d/x",
    ]
    (folder / "step-backup.d").mkdir()
    for name in mine:
        shutil.copy(path(10), folder / name)
    assert run(22) == 0
    assert "continued at step 20" in capsys.readouterr().out
    assert [str(one) for one in checkpoint.listed(folder)] == [str(path(20)), str(path(22))]
    assert all((folder / name).exists() for name in mine)


def test_what_lies_in_the_folder_of_tiles_or_parts_stays() -> None:
    """A run removes what it wrote there, and no folder in which there is something else."""
    parts = ["--set", "output.writer=per-rank"]
    assert run(20, *parts) == 0
    kept = [path(10).with_suffix(".d") / "notes.txt", Path("r/trajectory.d/2024-measurements/x.dat")]
    kept += [Path("r/trajectory.d/0007/x.dat"), path(50).with_suffix(".d") / "x.dat"]
    for one in kept:
        one.parent.mkdir(exist_ok=True)
        one.write_text("precious")
    assert run(60, *parts) == 0
    assert all(one.read_text() == "precious" for one in kept)
    assert sorted(path(10).with_suffix(".d").iterdir()) == [kept[0]]


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("same-settings", 10, "step-000000000010.h5 is of another run than the rest of r: move it away"),
        ("same-settings", 5, "step-000000000005.h5 is of another run than the rest of r: move it away"),
        ("r", 40, "step-000000000040.h5 is the checkpoint of step 10, not of the step in its name: move it away"),
    ],
)
def test_a_checkpoint_of_another_run_or_step_is_refused(
    source: str, name: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be gone on from, or be removed when later ones are written."""
    assert run(20) == 0
    assert run(20, output="same-settings") == 0
    shutil.copy(path(10, source), path(name))
    before = {one: one.read_bytes() for one in Path("r").glob("**/*") if one.is_file()}
    assert run(60) == 2
    assert words in capsys.readouterr().err
    assert {one: one.read_bytes() for one in Path("r").glob("**/*") if one.is_file()} == before


FOREIGN: dict[str, Callable[[dict[str, object]], object]] = {
    "empty": lambda _: "",
    "no JSON": lambda _: "{",
    "nested": lambda _: "[" * 100_000,
    "a list": lambda _: "[]",
    "no steps": lambda content: {"stopped": None},
    "text": lambda content: {**content, "steps": "20"},
    "another seed": lambda content: {**content, "seed": 1},
    "another run": lambda content: {**content, "run": "0" * 32},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_summary_that_does_not_agree_is_written_anew(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(20) == 0
    summary = Path("r/summary.json")
    content = json.loads(summary.read_text())
    assert finished(Path("r"), 20, 0)
    assert not finished(Path("r"), 20, 1)
    changed = FOREIGN[kind](content)
    summary.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    assert not finished(Path("r"), 20, 0)
    assert run(20) == 0
    told = capsys.readouterr().out
    assert "continued at step 20" in told
    assert json.loads(summary.read_text())["steps"] == 20
    assert finished(Path("r"), 20, 0)
    assert run(20) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["trajectory.h5", "checkpoints/step-000000000020.h5"])
def test_a_run_is_not_finished_by_its_summary_alone(lost: str) -> None:
    assert run(20) == 0
    before = (Path("r") / lost).read_bytes()
    for content in (None, b"", before[:-100]):
        (Path("r") / lost).unlink() if content is None else (Path("r") / lost).write_bytes(content)
        assert not finished(Path("r"), 20, 0)
    (Path("r") / lost).write_bytes(before)
    assert finished(Path("r"), 20, 0)


def test_summary_and_checkpoints_of_a_longer_run_do_not_end_a_shorter_one() -> None:
    """A summary that was copied from a run of the same settings."""
    assert run(20) == 0
    assert run(30, output="longer") == 0
    shutil.copy("longer/summary.json", "r/summary.json")
    assert not finished(Path("r"), 30, 0)
    assert run(30) == 0
    assert finished(Path("r"), 30, 0)


def test_a_trajectory_of_another_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """By its identity; by its settings if it is too old to have one."""
    assert run(20) == 0
    assert run(20, "--seed", "7", output="seven") == 0
    checkpoints = sorted(Path("r/checkpoints").iterdir())
    for words in ("is of another run than the rest of r", "dynamics.seed = 7 and here it is 0"):
        shutil.copy("seven/trajectory.h5", "r/trajectory.h5")
        assert run(40) == 2
        assert words in capsys.readouterr().err
        assert Path("r/trajectory.h5").read_bytes() == Path("seven/trajectory.h5").read_bytes()
        assert sorted(Path("r/checkpoints").iterdir()) == checkpoints
        with h5py.File("seven/trajectory.h5", "r+") as file:
            file.attrs.pop("run", None)
