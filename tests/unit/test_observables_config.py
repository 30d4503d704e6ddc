"""Orders that a configuration asks for: the columns that they make, what they do to a run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_holstein.cli import main
from hpc_holstein.config import config_of_text, load_config
from hpc_holstein.storage.series import SERIES, described
from hpc_holstein.storage.trajectory import open_trajectory

RUN = ["run", "--preset", "paper-2601.04104", "--force", "atomic", "--output", "r"]
STRIPE = '{name="stripe",wave_vector=["1/2",0]}'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_columns_figures_and_numbers_of_a_given_order(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = f'[{STRIPE},{{name="quarter",wave_vector=[0.25,0.25],field="q"}}]'
    assert main([*RUN, "--lattice", "8x4", "--steps", "20", "--set", f"observable={wanted}"]) == 0
    with open_trajectory(Path("r/trajectory.h5")) as trajectory:
        series = trajectory.series()
        n, q = (getattr(trajectory.snapshot(-1), field) for field in ("density", "q"))
    rows = (-1.0) ** np.arange(8)[:, None]
    assert series["order_parameter_stripe"][-1] == pytest.approx(2 * abs((n * rows).mean()))
    turns = np.exp(-0.5j * np.pi * np.indices((8, 4)).sum(axis=0))
    assert abs(series["order_parameter_q_quarter"][-1] / abs((q * turns).mean()) - 2 * np.sqrt(2)) < 1e-9
    with h5py.File("r/trajectory.h5") as file:
        assert file["order_parameter_q_quarter"].attrs["units"] == "a"
        assert (
            file["domain_length_half_height_stripe"].attrs["long_name"].endswith("half height of C(r), of the order 'stripe'")
        )
    assert main(["analyze", "r"]) == 0
    assert "order parameter stripe" in capsys.readouterr().out
    names = {path.name for path in Path("r/analysis").iterdir()}
    assert {"cdw_maps.png", "cdw_maps_stripe.png", "correlations_stripe.png", "order_maps_quarter.png"} <= names
    with h5py.File("r/analysis/analysis.h5") as file:
        assert file["phi_stripe"].shape == (2, 8, 4, 1, 1)
        assert file["phi_quarter_imag"].attrs["units"] == "a"
        assert np.array_equal(file["domain_length_half_height_stripe"], series["domain_length_half_height_stripe"])


def test_an_order_that_joins_later_has_no_earlier_values() -> None:
    assert main([*RUN, "--lattice", "4x4", "--steps", "10"]) == 0
    assert main([*RUN, "--lattice", "4x4", "--steps", "20", "--set", f"observable=[{STRIPE}]"]) == 0
    with open_trajectory(Path("r/trajectory.h5")) as trajectory:
        found = trajectory.series()["order_parameter_stripe"]
    assert np.isnan(found[0])
    assert np.isfinite(found[-1])


def test_odd_extents_leave_the_order_out_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--lattice", "7x8", "--steps", "4"]) == 0
    told = capsys.readouterr().out
    assert "the order of density at (1/2, 1/2) reciprocal lattice vectors is left out" in told
    assert "use 6x8 or 8x8" in told
    assert main(["analyze", "r"]) == 0
    assert {path.name for path in Path("r/analysis").glob("*.png")} == {
        "density_maps.png",
        "energies.png",
        "structure_factor.png",
    }
    assert main(["analyze", "r", "--animate"]) == 2
    assert "records no order to film" in capsys.readouterr().err


def test_configurations_keep_their_orders_and_say_nothing_of_none() -> None:
    given = {"observable": [{"name": "s", "wave_vector": ["1/2", 0], "signs": [1]}], "lattice.extent": [4, 4]}
    config = load_config(None, "paper-2601.04104", given)
    assert config_of_text(config.toml()).observable == config.observable
    assert "observable]]" not in load_config(None, "paper-2601.04104", {"lattice.extent": [4, 4]}).toml()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('{name="q",wave_vector=[0,0.5]}', "observable[0].name: 'q' is no name"),
        ('{name="a",wave_vector=[0]}', "observable[0].wave_vector has 1 numbers and the square lattice needs 2"),
        ('{name="a",wave_vector=[0,"x"]}', "observable[0].wave_vector[1]: 'x' is no part of a reciprocal lattice vector"),
        ('{name="a",wave_vector=[0,"1/0"]}', "'1/0' is no part"),
        ('{name="a",wavevector=[0,0]}', "did you mean 'observable.wave_vector'?"),
        ('{name="a",wave_vector=[0,0],field="q_x"}', "observable[0].field = 'q_x' is none of the holstein model"),
        ('{name="a",wave_vector=[0,0]},{name="a",wave_vector=[0,0]}', "observable.name = 'a' is given 2 times"),
        ('{name="a",wave_vector=[0,0],kind="walls"}', "observable[0].kind = 'walls' is not known"),
        ('{name="a",wave_vector=[0,0],signs=[0]}', "observable[0].signs = [0] has a 0"),
        ('{name="a",wave_vector=[0,0],signs=[1,1]}', "observable[0].signs has 2 numbers and the square lattice needs 1"),
    ],
)
def test_what_is_no_order_is_refused(given: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--lattice", "4x4", "--steps", "2", "--set", f"observable=[{given}]"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not Path("r").exists()


def test_series_of_named_orders_are_described() -> None:
    assert described("order_parameter_q") == SERIES["order_parameter_q"]
    found = described("order_parameter_q_third")
    assert found is not None
    assert found.unit == "a"
    assert described("timing") is None
