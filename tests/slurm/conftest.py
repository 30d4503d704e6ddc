"""One Slurm for all tests here, which need root and its daemons: ``pytest tests/slurm``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, running

PROGRAMS = Path(sys.executable).parent


def pytest_configure(config: pytest.Config) -> None:
    """The marker of everything in this folder."""
    config.addinivalue_line("markers", "slurm: needs root, slurmctld and slurmd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is collected from this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of four cores and two (counted, not real) GPUs each."""
    programs = [str(PROGRAMS), *os.environ["PATH"].split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch, running(tmp_path_factory.mktemp("slurm") / "cluster") as found:
        patch.setenv("PATH", os.pathsep.join(programs))  # jobs get the environment of who submits them
        patch.setenv("OMP_NUM_THREADS", "1")
        yield found


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a site file, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HPC_HOLSTEIN_SITE", raising=False)
