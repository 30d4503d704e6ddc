"""An observable and a scheme of the dynamics from outside of the package: the files of the page on extending it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpc_holstein.storage.trajectory import open_trajectory

ROOT = Path(__file__).parents[2]
RUN = ["run", "--preset", "paper-2601.04104", "--force", "atomic", "--lattice", "4x4", "--set", "output.snapshot_every=10"]
WITH_FILES = """
import json, sys
from hpc_holstein import dynamics, observables
observables.__path__.append("observables")
dynamics.__path__.append("dynamics")
from hpc_holstein.cli import main
print("codes", [main(line) for line in json.loads(sys.argv[1])])
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two Python blocks of the page, under the names that it gives them."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"`((?:observables|dynamics)/\w+\.py)`:\n\n```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert [name for name, _ in blocks] == ["observables/moment.py", "dynamics/brownian.py"]
    for name, text in blocks:
        Path(name).parent.mkdir()
        Path(name).write_text(text)


def told_by(*lines: list[str]) -> str:
    """What commands print, one after the other in a process that knows the files, and at the end their exit codes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITH_FILES, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stderr + done.stdout


def test_a_run_with_both_goes_on_and_is_analyzed() -> None:
    both = ["--set", "dynamics.scheme=brownian", "--set", 'observable=[{kind="moment",power=2},{name="s",wave_vector=[0.5,0]}]']
    runs = [[*RUN, *both, "--steps", steps, "--output", "r"] for steps in ("20", "30")]  # the second one goes on
    told = told_by(*runs, ["analyze", "r"])
    assert told.endswith("codes [0, 0, 0]\n"), told
    assert ", brownian, 30 steps" in told
    with open_trajectory(Path("r/trajectory.h5")) as trajectory:
        series, last, other = trajectory.series(), trajectory.snapshot(-1).q, trajectory.snapshot(-2).q
    assert len(series["q_moment_2"]) == 4
    assert series["q_moment_2"][-1] == pytest.approx((last**2).mean())
    assert not np.array_equal(last, other)
    assert json.loads(Path("r/summary.json").read_text())["observables"]["q_moment_2"] == series["q_moment_2"][-1]
    with h5py.File("r/trajectory.h5") as file:
        assert dict(file["q_moment_2"].attrs)["units"] == "a^2"
        assert file["q_moment_2"].attrs["long_name"] == "mean of q^2"
        assert "order_parameter_s" in file
    assert "q_moment_2" in json.loads(Path("r/analysis/analysis.json").read_text())["observables"]


def test_what_is_wrong_with_one_is_said_as_of_any_key() -> None:
    wrong = {
        '{kind="moment",power=0}': "observable[0].power = 0 is not valid: it should be at least 1",
        '{kind="moment",exponent=2}': "did you mean 'observable.power'?",
        '{name="a",wave_vector=[0,"x"]}': "observable[0].wave_vector[1]: 'x' is no part of a reciprocal lattice vector",
        '{kind="moments"}': "observable[0].kind = 'moments' is not known: did you mean 'moment'? choose from moment, order",
        '{kind="moment"},{kind="moment"}': "the series = 'q_moment_4' is given 2 times",
    }
    told = told_by(*([*RUN, "--steps", "2", "--output", "r", "--set", f"observable=[{given}]"] for given in wrong))
    assert told.endswith("codes [2, 2, 2, 2, 2]\n")
    for words in wrong.values():
        assert words in told
    assert not Path("r").exists()
