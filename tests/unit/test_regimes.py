"""Regimes of states: those that follow from their charge order, and those given by steps."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.lattice import square
from hpc_holstein.training import dataset
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.regimes import Regimes

QUENCH = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
RNG = np.random.default_rng(3)


def checkerboard(extent: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(extent)
    return np.asarray((-1.0) ** (y + x))


def regime(q: np.ndarray, periodic: tuple[bool, bool] = (True, True)) -> str:
    return Regimes(square.build(q.shape, periodic)).of(torch.as_tensor(q)[..., None, None])


def stripes(width: int) -> np.ndarray:
    return 6 * checkerboard((40, 40)) * np.where(np.arange(40) // width % 2 == 0, 1, -1)


def mosaic(domain: float) -> np.ndarray:
    """Noise without waves shorter than a few ``domain``, as the sign of a checkerboard."""
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(40)], indexing="ij"))
    smooth = np.fft.ifft2(np.fft.fft2(RNG.normal(size=(40, 40))) * np.exp(-20 * (domain * k) ** 2)).real
    return np.asarray(6 * checkerboard((40, 40)) * np.sign(smooth))


@pytest.mark.parametrize("amplitude", [6.0, 0.3])
@pytest.mark.parametrize("extent", [(40, 40), (8, 6), (2, 2), (1, 8)])
@pytest.mark.parametrize("periodic", [(True, True), (False, False)])
def test_one_domain_is_ordered(amplitude: float, extent: tuple[int, int], periodic: tuple[bool, bool]) -> None:
    q = amplitude * (checkerboard(extent) + 0.05 * RNG.normal(size=extent)) + 1.7
    assert regime(q, periodic) == "ordered"


def test_wide_domains_are_ordered_and_a_mosaic_is_not() -> None:
    assert regime(stripes(20)) == "ordered"
    assert regime(stripes(5)) == "coarsening"
    assert regime(mosaic(1.0)) == "coarsening"


@pytest.mark.parametrize("extent", [(40, 40), (9, 11)])
def test_states_without_local_order_are_hot(extent: tuple[int, int]) -> None:
    noise = RNG.normal(size=extent)
    assert regime(5.27 * noise) == "hot"
    assert regime(np.full(extent, 0.3)) == "hot"
    assert regime(0.3 + 1e-9 * noise) == "hot"
    impurity = np.zeros(extent)
    impurity[3, 3] = 5.0
    assert regime(impurity) == "hot"
    halves = np.where(np.arange(extent[1]) < extent[1] // 2, 5.0, -5.0) * np.ones(extent)
    assert regime(halves) == "hot"


def test_the_published_quench_is_hot_for_about_200_steps_and_ends_in_a_mosaic() -> None:
    quench = dataset.read(QUENCH)
    regimes = Regimes(square.build(quench.extent))
    masks = regimes.masks(quench)
    assert set(masks) <= {"all", "random", "hot", "coarsening"}
    assert 100 <= quench.step[masks["hot"]].max() <= 300
    assert 100 <= quench.step[masks["coarsening"]].min() <= 300


def test_random_states_stand_apart_and_only_what_is_there_is_named() -> None:
    q = np.stack([stripes(40), stripes(40), stripes(5), 5 * RNG.normal(size=(40, 40))])
    masks = Regimes(square.build((40, 40))).masks(Snapshots.of(q, quench=[-1, 0, 0, 1]))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "all": [0, 1, 2, 3],
        "random": [0],
        "hot": [3],
        "coarsening": [2],
        "ordered": [1],
    }


def test_steps_that_are_given() -> None:
    states = Snapshots.of(np.zeros((6, 4, 4)), quench=[-1, 0, 0, 0, 0, 1], step=[0, 0, 199, 200, 800, 5000])
    regimes = Regimes(
        square.build((4, 4)), {"hot": (0, 200), "coarsening": (200, 800), "late": (800, None), "never": (9000, None)}
    )
    masks = {name: np.flatnonzero(mask).tolist() for name, mask in regimes.masks(states).items()}
    assert masks == {"all": [0, 1, 2, 3, 4, 5], "random": [0], "hot": [1, 2], "coarsening": [3], "late": [4, 5]}
    assert regimes.definition == "hot=0:200,coarsening=200:800,late=800:,never=9000:"


@pytest.mark.parametrize(
    "text", ["", "hot", "hot=1", "hot=5:5", "hot=-1:3", "a=0:1,a=1:2", "all=0:1", "force=0:5", "x=0:1,", "2a=0:1"]
)
def test_steps_that_mean_nothing_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--input", "none.h5", "--regimes", text]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "such as hot=0:200,coarsening=200:800,late=800:" in message


def test_validate_by_state_and_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with h5py.File("states.h5", "w") as file:
        file["q"] = np.stack([5 * RNG.normal(size=(6, 8)), 5 * checkerboard((6, 8))])
        file["quench"], file["step"] = np.array([0, 0]), np.array([5000, 0])
    judged = ["validate", "--input", "states.h5", "--force", "atomic"]
    assert main([*judged, "--output", "state"]) == 0
    found = json.loads(Path("state/validation.json").read_text())
    assert (found["regimes"], found["hot"]["snapshots"], found["ordered"]["snapshots"]) == ("by state", 1, 1)
    assert main([*judged, "--regimes", "early=0:100,late=100:", "--output", "step"]) == 0
    found = json.loads(Path("step/validation.json").read_text())
    assert (found["regimes"], found["early"]["snapshots"], "hot" in found) == ("early=0:100,late=100:", 1, False)
    assert "late" in capsys.readouterr().out
