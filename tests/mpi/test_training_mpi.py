"""Labelling and training on the ranks of MPI: the files of one rank."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import execute

from hpc_holstein.domain.transport import MPITransport, SerialTransport
from hpc_holstein.errors import DataError
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.training import dataset
from hpc_holstein.training.fit import _Training

pytestmark = pytest.mark.mpi

PLAN = ["--random", 3, "--quenches", 3, "--per-quench", 3, "--quench-steps", 6, "--path-force", "atomic", "--lattice", "10x10"]
TRAINING = {"dtype": "float64", "batch": 3, "validation": 0.3, "test": 0.3, "learning_rate": 0.02}
EPOCHS = 10  # enough to be better than the atomic limit


def contents(path: Path) -> dict[str, Any]:
    """Attributes and datasets with theirs."""
    with h5py.File(path) as file:
        found: dict[str, Any] = {f"@{key}": np.asarray(value).tolist() for key, value in file.attrs.items()}
        for name, data in file.items():
            found[name] = data[...].tolist()
            found |= {f"{name}@{key}": np.asarray(v).tolist() for key, v in data.attrs.items() if key != "DIMENSION_LABELS"}
    return found


def test_labelled_files_are_those_of_one_rank(transport: MPITransport, together: Path) -> None:
    """Made from scratch and added to a file, in which the snapshots do not divide by the ranks: the same bits."""
    if transport.rank == 0:
        dataset.write("states.h5", dataset.Snapshots.of(5 * np.random.default_rng(2).normal(size=(5, 6, 4))))
    assert transport.all_arrive(50)  # asleep, so that rank 0 has a core
    for name, what in (("made", [*PLAN, "--seed", 3]), ("added", ["--input", "states.h5"])):
        execute(transport, "label", *what, "--force", "exact", "--output", f"{name}-many.h5")
        if transport.rank == 0:
            execute(SerialTransport(), "label", *what, "--force", "exact", "--output", f"{name}-one.h5")
            assert contents(together / f"{name}-many.h5") == contents(together / f"{name}-one.h5")
    assert sorted(p.name for p in together.iterdir() if p.name.startswith(".")) == []


def words(**options: object) -> list[object]:
    """A short training of a small network, as arguments of ``train``."""
    how: list[object] = ["data.h5", "--epochs", EPOCHS, "--seed", 5, "--set", "model.copies=1", "--set", "model.levels=2"]
    for key, value in {**TRAINING, **options}.items():
        how += ["--set", f"training.{key}={value}"]
    return how


def curve(folder: Path) -> np.ndarray:
    """``loss.csv`` without the seconds."""
    with (folder / "loss.csv").open() as file:
        return np.array(list(csv.reader(file))[1:], float)[:, [0, 1, 3, 4, 5, 6]]


def test_a_training_is_that_of_one_rank(transport: MPITransport, together: Path) -> None:
    """The same loss curve, sets and weights, to the round-off of a few steps of the optimiser."""
    execute(transport, "label", *PLAN, "--seed", 4, "--force", "exact", "--output", "data.h5")
    execute(transport, "train", *words(), "--output", "many")
    execute(transport, "train", *words(dtype="float32"), "--output", "many32")
    if transport.rank == 0:
        execute(SerialTransport(), "train", *words(), "--output", "one")
        execute(SerialTransport(), "train", *words(dtype="float32"), "--output", "one32")
        one, many = (curve(together / name) for name in ("one", "many"))
        np.testing.assert_allclose(many, one, rtol=1e-9)
        assert len(one) == EPOCHS
        assert one[-1, 3] != one[0, 3]
        one32, many32 = (curve(together / name) for name in ("one32", "many32"))
        # The order of a sum over ranks is round-off, 1e-7 in the first steps, which Adam enlarges a hundredfold in ten epochs.
        np.testing.assert_allclose(many32[:2], one32[:2], rtol=1e-6)
        np.testing.assert_allclose(many32[:3], one32[:3], rtol=1e-5)
        np.testing.assert_allclose(many32, one, rtol=1e-4)
        models = [load_model(together / name / "model.safetensors") for name in ("one", "many")]
        assert models[0][1].data_hash == models[1][1].data_hash
        for a, b in zip(*(model.parameters() for model, _ in models), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-9)
        metrics = [json.loads((together / name / "metrics.json").read_text()) for name in ("one", "many")]
        assert metrics[0]["sets"] == metrics[1]["sets"]
        assert metrics[1]["test"]["all"]["mse"] == pytest.approx(metrics[0]["test"]["all"]["mse"], rel=1e-9)
    assert transport.all_arrive(50)  # asleep, so that rank 0 has a core


class EndedError(Exception):
    """What ends a training after its first epoch."""


@pytest.mark.parametrize("first", ["all", "one"])
def test_a_training_goes_on_with_another_number_of_ranks(
    transport: MPITransport, together: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Interrupted on all ranks and continued on one, or the other way: the loss curve of one rank without a stop."""
    execute(transport, "label", *PLAN, "--seed", 4, "--force", "exact", "--output", "data.h5")
    real = _Training._train_epoch

    def ends(self: _Training) -> float:
        if self.record.epoch:
            raise EndedError
        return real(self)

    for who in (first, "one" if first == "all" else "all"):
        monkeypatch.setattr(_Training, "_train_epoch", ends if who == first else real)
        if who == "all" or transport.rank == 0:
            with pytest.raises(EndedError) if who == first else nullcontext():
                execute(transport if who == "all" else SerialTransport(), "train", *words(), "--output", "model")
        assert transport.all_arrive(50)
    if transport.rank == 0:
        execute(SerialTransport(), "train", *words(), "--output", "whole")
        np.testing.assert_allclose(curve(together / "model"), curve(together / "whole"), rtol=1e-9)
    assert transport.all_arrive(50)


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        ("exists already", ["label", "--input", "states.h5", "--output", "states.h5"]),
        (r"nan in snapshot 1 at site \(y, x\) = \(2, 3\)", ["label", "--input", "nan.h5", "--output", "new.h5"]),
        ("is not labelled", ["train", "states.h5", "--output", "model"]),
    ],
    ids=["output", "nan", "labels"],
)
def test_every_rank_raises_the_same_error(transport: MPITransport, together: Path, sentence: str, arguments: list[str]) -> None:
    if transport.rank == 0:
        q = np.random.default_rng(2).normal(size=(2, 6, 4))
        dataset.write("states.h5", dataset.Snapshots.of(q))
        q[1, 2, 3] = np.nan
        with h5py.File("nan.h5", "w") as file:
            file["q"] = q
    assert transport.all_arrive(50)  # asleep, so that rank 0 has a core
    with pytest.raises(DataError, match=sentence) as caught:
        execute(transport, *arguments)
    assert len(set(transport.allgather(str(caught.value)))) == 1
    assert sorted(path.name for path in together.iterdir()) == ["nan.h5", "states.h5"]
