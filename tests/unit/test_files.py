"""Output files: whole or not there, never overwritten, and with the permissions that the umask gives."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import DataError, ModelError
from hpc_holstein.files import new_file, refuse_existing, replaced, require_writable
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import make_card, save_model
from hpc_holstein.network.models import enn
from hpc_holstein.output.provenance import write_json
from hpc_holstein.storage.writer import TrajectoryWriter
from hpc_holstein.training import dataset
from hpc_holstein.training._parts import Parts
from hpc_holstein.training._record import TrainingFile, write_curve

LATTICE = square.build((4, 4))


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    for text in ("first", "second"):
        with replaced(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves an empty file under the name of a whole one."""
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real["fsync"](descriptor)

    def rename(old: Path, new: Path) -> None:
        calls.append(f"rename {Path(new).name}")
        real["replace"](old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    for name, write in WRITERS.items():
        calls.clear()
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        write(folder / "output")
        if name == "curve":  # written anew at each validation of a training, which does not read it
            assert calls == ["rename output"]
        else:
            last = calls[-3:]
            named = last[1].removeprefix("rename ")
            assert re.fullmatch(rf"fsync \.({re.escape(named)}\.{os.getpid()}|\w+\.\w+)\.tmp", last[0]), name
            assert last[1:] == [f"rename {named}", f"fsync {folder.name}"], name


def test_a_body_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replaced(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_what_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for refusal in (DataError, ModelError):
        with (
            pytest.raises(refusal, match=r"file/a\.txt cannot be written \(.+\): choose"),
            replaced(tmp_path / "file" / "a.txt", refusal) as temporary,
        ):
            temporary.write_text("")


def test_a_new_file_is_never_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with new_file(path) as temporary:
        temporary.write_text("precious")
    with pytest.raises(DataError, match="exists already"), new_file(path) as temporary:
        temporary.write_text("other")
    with pytest.raises(DataError, match="exists already"):
        refuse_existing(tmp_path / "none", path)
    refuse_existing(tmp_path / "none")
    assert path.read_text() == "precious"


def write_model(path: Path) -> None:
    options = enn.Options(copies=1)
    hamiltonian = holstein.build(holstein.Options(), LATTICE)
    module = enn.build(options, LATTICE)
    card = make_card(module, "enn", options, hamiltonian, LATTICE, Ensemble("canonical", 0.1), data_hash="", seed=0, metrics={})
    save_model(path, module, card)


def write_labelled(path: Path) -> None:
    states = dataset.Snapshots.of(np.ones((1, 4, 4)))
    dataset.write(path.with_suffix(".source"), states)
    dataset.write_labelled(path.with_suffix(".source"), path, states)


def write_trajectory(path: Path) -> None:
    transport = SerialTransport()
    TrajectoryWriter(path, CartesianDomain(LATTICE, transport), transport, 0.05, torch.float64, {}).close()


def write_figure(path: Path) -> None:
    from hpc_holstein.output.plots import training_curve

    row = {"epoch": 1.0, "step": 1.0, "elapsed_s": 1.0, "learning_rate": 1.0}
    training_curve(path.with_suffix(".png"), [{**row, "training_mse": 1.0, "validation_mse": 1.0, "best_mse": 1.0}], 2.0)


WRITERS: dict[str, Callable[[Path], None]] = {
    "model": write_model,
    "snapshots": lambda path: dataset.write(path, dataset.Snapshots.of(np.ones((1, 4, 4)))),
    "labelled snapshots": write_labelled,
    "trajectory": write_trajectory,
    "json": lambda path: write_json(path, {"a": 1}),
    "curve": lambda path: write_curve(path, []),
    "training state": lambda path: TrainingFile(path, {}).save({"a": torch.ones(1)}),
    "part": lambda path: Parts(path, {}).save("labels-0-0", {"b": np.ones(1)}),
    "figure": write_figure,
}


@pytest.fixture(params=[0o022, 0o007], ids=["022", "007"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_the_umask_decides_who_reads_an_output(tmp_path: Path, umask: int, write: Callable[[Path], None]) -> None:
    write(tmp_path / "output")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes
    assert set(modes.values()) == {oct(0o666 & ~umask)}, modes


def test_an_output_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "folder" / "a.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]  # nothing is left behind
    for path in (tmp_path / "file" / "a.txt", tmp_path / "file" / "folder" / "a.txt"):
        with pytest.raises(DataError, match=r"cannot be written \(Not a directory\): choose a folder"):
            require_writable(path)
    with pytest.raises(DataError, match="exists already"):
        require_writable(tmp_path / "file")


def damaged(content: bytes) -> list[bytes]:
    """Empty, as after a power cut; cut anywhere; zeros instead; of another format."""
    cut = [content[:length] for length in range(0, len(content), max(1, len(content) // 40))]
    return [*cut, bytes(len(content)), b"\x80\x02N.", b"\x93NUMPY\x01\x00v\x00" + b"(" * 118]


def test_a_damaged_part_of_a_job_is_said_in_one_sentence(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.h5", {})
    parts.save("labels-0-0", {"b": np.arange(99.0)})
    part = tmp_path / ".out.h5.labels-0-0.part"
    for content in damaged(part.read_bytes()):
        part.write_bytes(content)
        with pytest.raises(DataError, match=r"labels-0-0\.part cannot be read .*: remove it") as caught:
            parts.check()
        assert "\n" not in str(caught.value)


def test_files_of_other_names_are_no_parts(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.h5", {})
    parts.save("labels-0-0", {"b": np.arange(9.0)})
    mine = [tmp_path / f".out.h5.{name}.part" for name in ("mine", "labels-copy", "labels-0-0.old")]
    for path in mine:
        path.write_text("precious")
    assert len(parts.load("*")) == 1
    parts.clear()
    assert sorted(tmp_path.iterdir()) == sorted(mine)


def test_a_damaged_state_of_a_training_is_said_in_one_sentence(tmp_path: Path) -> None:
    file = TrainingFile(tmp_path / "state.pt", {})
    file.save({"a": torch.ones(99)})
    for content in damaged((tmp_path / "state.pt").read_bytes()):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(DataError, match=r"state\.pt is no usable training state .*: remove it") as caught:
            file.load()
        assert "\n" not in str(caught.value)
