"""``hpc-holstein learn``: rounds that explore, label and train, each part of which is made once, however the command ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import LEARN
from injected import AtCall, command

from hpc_holstein.cli import main
from hpc_holstein.network.checkpoint import load_model, model_hash, read_card
from hpc_holstein.output import plots
from hpc_holstein.training import dataset

OLD = Path(__file__).parents[1] / "data" / "model-schema-1.safetensors"  # whose card has no range


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled snapshots and a network trained on them."""
    folder = tmp_path_factory.mktemp("beginning")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        Path("learn.toml").write_text(LEARN)
        assert main(["label", "--random", "8", "--lattice", "10x10", "--force", "exact", "--output", "data.h5"]) == 0
        assert main(["train", "data.h5", "learn.toml", "--output", "start"]) == 0
    return folder


@pytest.fixture
def here(beginning: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("data.h5", "start", "learn.toml"):
        Path(name).symlink_to(beginning / name)
    return tmp_path


def learn(*more: object) -> int:
    return main(["learn", "learn.toml", *map(str, more)])


def report(folder: str = "learn") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "learn.json").read_text())
    return found


def files(folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_two_rounds_each_learn_what_was_collected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn() == 0
    first = report()["rounds"]
    assert (first[0]["collected"], first[0]["snapshots"]) == (2, 10)
    before = files("learn/round-1") | files("learn/round-0")
    capsys.readouterr()
    assert learn("--rounds", 2) == 0  # one more, and nothing of the first one again
    assert before == files("learn/round-1") | files("learn/round-0")
    said = capsys.readouterr().out
    rounds = report()["rounds"]
    assert rounds[:1] == first
    assert [row["round"] for row in rounds] == [1, 2]
    assert rounds[1]["snapshots"] == 12
    table = said[said.index("  round  states collected") :].splitlines()
    assert table[2].split()[:2] == ["2", "2"]
    assert report()["network"] == "learn/round-2/model-0/model.safetensors"
    metrics = json.loads(Path("learn/round-2/model-0/metrics.json").read_text())
    assert str(metrics["data"]).count("labelled.h5") == 2  # of both rounds
    assert metrics["start"]
    assert rounds[1]["validation_mse"] == metrics["validation"]["all"]["mse"]
    seeds = [read_card(Path(f"learn/round-2/model-{member}/model.safetensors")).seed for member in (0, 1)]
    assert seeds == [0, 1]
    explored = [dataset.read(f"learn/round-{number}/run-1/collected.h5") for number in (1, 2)]
    assert [one.attributes["collected.seed"] for one in explored] == [4, 5]
    assert not np.array_equal(explored[0].q[0], explored[1].q[0])
    labelled = dataset.read("learn/round-2/run-1/labelled.h5", require_labels=True)
    np.testing.assert_array_equal(labelled.q, explored[1].q)


def test_a_training_starts_from_given_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    still = ["train", "data.h5", "learn.toml", "--set", "training.learning_rate=1e-12", "--from"]
    assert main([*still, "start/model.safetensors", "--output", "same"]) == 0
    old, new = (dict(load_model(Path(name) / "model.safetensors")[0].named_parameters()) for name in ("start", "same"))
    for name, value in old.items():
        np.testing.assert_allclose(new[name].detach(), value.detach(), rtol=0, atol=1e-6, err_msg=name)
    card = read_card("same/model.safetensors")
    assert (card.training["learning_rate"], card.training["electron_number"]) == (1e-12, 0.3)
    assert card.training["from"] == model_hash(Path("start/model.safetensors"))
    assert "from" not in read_card("start/model.safetensors").training
    assert main([*still, "default", "--output", "other"]) == 2
    told = capsys.readouterr().err
    assert "weights can be carried on only to the same network" in told
    assert "copies is 4 in the file and 1 here" in told
    assert "scales" not in told  # which agree
    assert main([*still, "default", "--model", "efnn", "--output", "other"]) == 2
    assert "kind is enn in the file and efnn here" in capsys.readouterr().err


def test_a_training_that_learns_nothing_leaves_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = ["train", "data.h5", "learn.toml", "--set", "training.learning_rate=1e6", "--set", "training.clip=0.0"]
    assert main([*worse, "--output", "bad"]) == 1
    said = capsys.readouterr()
    assert "error: the training learned nothing: the smallest validation loss of 20 epochs is" in said.err
    assert said.err.count("\n") == 1
    assert [path.name for path in Path("bad").iterdir()] == ["loss.csv"]
    assert main(["train", "data.h5", "learn.toml", "--output", "bad"]) == 0  # the folder is free for another try
    assert main([*worse, "--from", "start/model.safetensors", "--output", "kept"]) == 0
    assert "no epoch was better than the weights of start/model.safetensors" in capsys.readouterr().out
    kept, start = (load_model(Path(name) / "model.safetensors")[0].state_dict() for name in ("kept", "start"))
    assert all(np.array_equal(kept[name], start[name]) for name in start)


def test_a_file_is_given_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else its snapshots would train and validate at once."""
    Path("again.h5").symlink_to(Path("data.h5").resolve())
    assert main(["train", "data.h5", "again.h5", "learn.toml", "--output", "twice"]) == 2
    assert "again.h5 is given twice" in capsys.readouterr().err


def test_it_ends_where_nothing_is_collected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn("--rounds", 3, "--set", "trust.max_deviation=1e3") == 0
    assert "round 1 collected nothing" in capsys.readouterr().out
    found = report()
    assert [row["collected"] for row in found["rounds"]] == [0]
    assert found["network"] == "start/model.safetensors"
    assert not Path("learn/round-1/model-0").exists()


def weights(folder: str) -> dict[str, Any]:
    module, _ = load_model(Path(folder) / "round-1/model-0/model.safetensors")
    return {name: value.numpy() for name, value in module.state_dict().items()}


def go_on(here: Path, folder: str, numbers: Iterable[int]) -> int:
    """Give the command again and again, killed at those calls that change the disk; how often until it came to its end."""
    for kills, number in enumerate(numbers):
        ended = command(here, ["learn", "learn.toml", "--output", folder], AtCall(number))
        if ended.code == 0:
            return kills
        assert ended.code == -9, ended.told
    raise AssertionError("it never came to its end")


@pytest.mark.timeout(300)
def test_killed_anywhere_the_same_command_goes_on(here: Path) -> None:
    """In the run, and behind the run: in labels, trainings, reports and between them."""
    assert learn("--output", "whole") == 0
    assert go_on(here, "parts", [60, 100_000]) == 1
    require_same("whole", "parts")
    for name in ("learn.json", "round-1/round.json", "round-1/run-1/labelled.h5"):
        (here / "parts" / name).unlink()
    for name in ("round-1/model-0", "round-1/model-1"):
        shutil.rmtree(here / "parts" / name)
    assert go_on(here, "parts", range(4, 100, 9)) >= 2
    require_same("whole", "parts")


def require_same(first: str, second: str) -> None:
    assert report(first)["rounds"] == report(second)["rounds"]
    ours, theirs = weights(first), weights(second)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    for name in ("collected.h5", "labelled.h5"):
        one, other = (dataset.read(f"{folder}/round-1/run-1/{name}") for folder in (first, second))
        assert one.data_hash == other.data_hash


def test_a_training_that_was_ended_while_it_wrote_its_files_is_finished(here: Path) -> None:
    model = Path("learn/round-0/model-1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "training_curve", ended)
        with pytest.raises(SystemExit):
            learn()
    assert {path.name for path in model.iterdir()} == {".training.pt", "loss.csv", "metrics.json", "model.safetensors"}
    assert learn() == 0
    assert (model / "loss.png").exists()
    assert not (model / ".training.pt").exists()
    assert load_model(model / "model.safetensors")[1].seed == 1


def ended(*arguments: Any) -> None:
    raise RuntimeError("ended")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "force.kind=exact"], "force.kind = 'exact' learns nothing"),
        (["--set", "learn.members=0"], "learn.members"),
        (["--set", "learn.data=gone.h5"], "gone.h5 does not exist"),
        (["--set", "learn.data=learn.toml"], "learn.toml cannot be read as HDF5"),
        (["--set", "ensemble.kT=0.2"], "data.h5 belongs to another system: ensemble.kT is 0.1 there and 0.2 here"),
        (["--set", "learn.labeller=nobody"], "force.kind = 'nobody' is not known"),
        (["--set", "learn.labeller=gone.safetensors"], "gone.safetensors does not exist"),
        (["--set", "force.model=gone.safetensors"], "gone.safetensors does not exist"),
        (["--set", 'force.committee=["gone.safetensors"]'], "gone.safetensors does not exist"),
        (["--set", "trust.every=4"], "trust.every = 4 is no multiple of output.observables_every = 3"),
        (["--set", f"force.model={OLD}", "--set", "trust.max_outside=0.1"], "trust.max_outside needs a network whose card"),
        (["--set", "parallel.replicas=2"], "parallel.replicas = 2 has no meaning for learn: set it to 1 and give learn.runs"),
    ],
)
def test_what_cannot_learn_is_refused(here: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any work."""
    assert learn(*more) == 2
    assert words in capsys.readouterr().err
    assert not Path("learn").exists()


def test_a_folder_belongs_to_one_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn("--set", "trust.max_deviation=1e3") == 0
    assert learn("--set", "dynamics.dt=0.02") == 2
    assert "learns with dynamics.dt = 0.05 and here it is 0.02" in capsys.readouterr().err


def test_a_limit_and_data_are_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for removed, words in (('data = "data.h5"', "learn.data is missing"), ("max_deviation = 1e-4", "without a limit")):
        Path("other.toml").write_text(LEARN.replace(removed, ""))
        assert main(["learn", "other.toml"]) == 2
        assert words in capsys.readouterr().err
    without = LEARN[: LEARN.index("[trust]")] + LEARN[LEARN.index("[learn]") :]
    Path("other.toml").write_text(without)
    assert main(["learn", "other.toml"]) == 2
    assert "[trust] has no limit" in capsys.readouterr().err
