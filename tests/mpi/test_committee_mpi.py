"""Committee, guard, collected states and active learning on the ranks of MPI: what one rank finds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import LEARN, execute, write_small_network

from hpc_holstein.domain.transport import MPITransport, SerialTransport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.network.checkpoint import load_model, save_model
from hpc_holstein.training import dataset

pytestmark = pytest.mark.mpi

SEEN = {
    f"{name}.{part}": -limit if part == "min" else limit
    for name, limit in (("field", 8.0), ("neighbours", 20.0))
    for part in ("min", "max", "median", "99 %", "99.9 %")
}
RUN = ["run", "--preset", "paper-2601.04104", "--lattice", "24x24", "--steps", "12", "--force", "a.safetensors", "--seed", "2"]
RUN += ["--set", "force.committee=['b.safetensors','c.safetensors']", "--set", "output.observables_every=3"]
RUN += ["--set", "output.snapshot_every=6"]
COLLECT = ["--set", "trust.action=collect", "--set", "trust.max_deviation=1e-6", "--set", "trust.collect_distance=6"]


@pytest.fixture
def models(together: Path, transport: MPITransport) -> Path:
    """Three networks, of which the first knows its training range."""
    if transport.rank == 0:
        for seed, name in enumerate("abc"):
            write_small_network(Path(f"{name}.safetensors"), seed)
        module, card = load_model(Path("a.safetensors"))
        save_model(Path("a.safetensors"), module, dataclasses.replace(card, field_range=SEEN), overwrite=True)
    transport.barrier()
    return together


def test_a_judged_run_is_that_of_one_rank(transport: MPITransport, models: Path) -> None:
    execute(transport, *RUN, *COLLECT, "--output", "many")
    if transport.rank == 0:
        execute(SerialTransport(), *RUN, *COLLECT, "--output", "one")
        with h5py.File("one/trajectory.h5") as one, h5py.File("many/trajectory.h5") as many:
            assert list(one) == list(many)
            assert np.nanmin(one["outside_fraction"][...]) > 0
            for name in ("committee_rms", "committee_max", "outside_fraction", "force_deviation"):
                np.testing.assert_allclose(many[name][...], one[name][...], rtol=1e-4, atol=1e-6, err_msg=name)  # float32
        states = [dataset.read(f"{name}/collected.h5") for name in ("one", "many")]
        assert states[0].step.tolist() == states[1].step.tolist() == [0, 6, 12]
        np.testing.assert_allclose(states[1].q, states[0].q, rtol=0, atol=1e-6)
        accounts = [json.loads(Path(name, "summary.json").read_text())["trust"] for name in ("one", "many")]
        assert accounts[0] == pytest.approx(accounts[1], rel=1e-4)
    assert transport.all_arrive(50)


def test_deterministic_runs_judge_alike_to_the_last_bit(transport: MPITransport, models: Path) -> None:
    execute(transport, *RUN, "--deterministic", "--output", "many")
    if transport.rank == 0:
        execute(SerialTransport(), *RUN, "--deterministic", "--output", "one")
        with h5py.File("one/trajectory.h5") as one, h5py.File("many/trajectory.h5") as many:
            for name in ("q", "committee_rms", "committee_max", "outside_fraction", "force_deviation"):
                np.testing.assert_array_equal(many[name][...], one[name][...], err_msg=name)
    assert transport.all_arrive(50)


def test_all_ranks_stop_with_the_same_sentence(transport: MPITransport, models: Path) -> None:
    with pytest.raises(SpectrumError, match="not trusted at step 0") as caught:
        execute(transport, *RUN, "--set", "trust.action=stop", "--set", "trust.max_deviation=1e-6", "--output", "stopped")
    assert len(set(transport.allgather(str(caught.value)))) == 1


def test_learning_is_that_of_one_rank(transport: MPITransport, together: Path) -> None:
    if transport.rank == 0:
        Path("learn.toml").write_text(LEARN)
    transport.barrier()
    execute(transport, "label", "--random", "3", "--lattice", "12x12", "--force", "exact", "--output", "data.h5")
    execute(transport, "train", "data.h5", "learn.toml", "--output", "start")
    execute(transport, "learn", "learn.toml", "--output", "many")
    execute(transport, "learn", "learn.toml", "--output", "many")  # nothing is left to do
    if transport.rank == 0:
        execute(SerialTransport(), "learn", "learn.toml", "--output", "one")
        rows = [json.loads(Path(name, "learn.json").read_text())["rounds"][0] for name in ("one", "many")]
        assert rows[0]["collected"] == 2
        assert rows[0] == pytest.approx(rows[1], rel=1e-2)  # sums of gradients in float32, in another order
    assert transport.all_arrive(50)
