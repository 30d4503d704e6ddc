"""Signals at random moments of a short run, to the end of its process: 75 with a checkpoint, or 0 when it is done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from injected import catches

from hpc_holstein.output import checkpoint
from hpc_holstein.output.summary import finished

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
STEPS = 300
RUN = [
    "-m",
    "hpc_holstein",
    "run",
    "--preset",
    "paper-2601.04104",
    "--lattice",
    "8x6",
    "--force",
    "atomic",
    "--steps",
    str(STEPS),
]


def started(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *RUN], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """That a run takes which nothing disturbs, from where it catches signals."""
    process = started(tmp_path_factory.mktemp("whole"))
    while not catches(process.pid):
        time.sleep(0.001)
    start = time.monotonic()
    process.communicate(timeout=120)
    return time.monotonic() - start


@pytest.mark.parametrize("seed", range(30))
def test_at_a_random_moment(tmp_path: Path, seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
    last = seed % 3 > 0  # two of three in the last second
    moment = chance.uniform(max(0.0, seconds - 1.0), seconds) if last else chance.uniform(0.0, seconds)
    process = started(tmp_path)
    while not catches(process.pid):
        time.sleep(0.001)
    time.sleep(moment)
    process.send_signal(number)
    told, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 75), told
    assert "Traceback" not in told
    run = tmp_path / "run"
    if process.returncode == 0:
        assert finished(run, STEPS, 0)
    else:
        stored, passed_over = checkpoint.newest(run / "checkpoints")
        assert stored is not None
        assert passed_over == []
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["steps"], summary["stopped"]) == (stored.step, f"{number.name} arrived")
