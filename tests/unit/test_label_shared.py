"""Labels that ranks share, that are interrupted, and their precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_labels import LATTICE, WIDE, InterruptedJobError, counting, make, make_local, plan, stopping

from hpc_holstein.cli import main
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.forces import local
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.training import dataset
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import LABELS
from hpc_holstein.training.label import LabelWork, evaluate, label
from hpc_holstein.training.paths import (
    RandomPlan,
    quench_snapshots,
    random_snapshots,
)

# --- fewer states than ranks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_ranks_share_a_state_when_there_are_more_of_them(ranks):
    states = random_snapshots(RandomPlan(1, 2.0, seed=1), WIDE)
    alone = label(states, WIDE, SerialTransport(), make_local, {})
    tiles = []

    def make(domain):
        tiles.append(domain.local_extent)
        return make_local(domain)

    for made in run_in_process(ranks, lambda t: label(states, WIDE, t, make, {})):
        for name in LABELS:
            np.testing.assert_allclose(getattr(made, name), getattr(alone, name), atol=1e-11, rtol=0)
    assert sum(rows * columns for rows, columns in tiles) == 72  # all of them work


def test_states_that_cannot_be_decomposed_are_dealt():
    """Tiles of 4 cells are too thin for a halo of 5."""
    states = random_snapshots(RandomPlan(1, 2.0, seed=1), WIDE)
    alone = label(states, WIDE, SerialTransport(), lambda domain: make_local(domain, core=4), {})
    tiles = []

    def make(domain):
        forces = make_local(domain, core=4)
        tiles.append(domain.local_extent)
        return forces

    for made in run_in_process(2, lambda t: label(states, WIDE, t, make, {})):
        np.testing.assert_allclose(made.force, alone.force, atol=1e-12, rtol=0)
    assert tiles == [(8, 9), (8, 9)]


def test_shared_states_continue_after_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_holstein.training.label._SAVE_EVERY", 1)
    states = random_snapshots(RandomPlan(2, 2.0, seed=1), WIDE)
    parts = Parts(tmp_path / "a.h5", {})
    stopped = stopping(make_local, 1)

    def first_rank_stops(domain):
        return stopped(domain) if domain.rank == 0 else make_local(domain)

    with pytest.raises(InterruptedJobError):
        run_in_process(3, lambda t: label(states, WIDE, t, first_rank_stops, {}, parts))
    log = []
    made = run_in_process(3, lambda t: label(states, WIDE, t, counting(make_local, log), {}, parts))[0]
    assert len(log) == 3  # each rank once: the other state was kept
    alone = label(states, WIDE, SerialTransport(), make_local, {})
    np.testing.assert_allclose(made.force, alone.force, atol=1e-11, rtol=0)


def test_what_a_provider_says_and_costs_is_collected():
    states = random_snapshots(RandomPlan(3, 2.0, seed=1), WIDE)
    seen = []
    work = LabelWork.of(states, WIDE, SerialTransport(), make_local)
    found = evaluate(states, work, progress=lambda *report: seen.append(report), stage="force local")
    assert found.info["clusters"].tolist() == [72, 72, 72]
    assert (found.seconds > 0).all()
    assert (found.tolerance, found.reach) == (None, 2)
    assert seen == [("force local", done, 3) for done in (1, 2, 3)]


def test_sampled_forces_are_no_labels():
    states = random_snapshots(RandomPlan(1, 2.0, seed=1), WIDE)
    with pytest.raises(ConfigError, match="needs the chemical potential of the whole lattice"):
        label(states, WIDE, SerialTransport(), lambda domain: make_local(domain, sites=5), {})
    fixed = Ensemble("grand-canonical", kT=0.1)

    def make(domain):
        return local.build(local.Options(sites=5), holstein.build(holstein.Options(), WIDE), domain, fixed)

    with pytest.raises(DataError, match="67 forces of 72 are not finite"):
        label(states, WIDE, SerialTransport(), make, {})


def test_damaged_part_is_named(tmp_path):
    (tmp_path / ".a.h5.labels-0-0.part").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"labels-0-0\.part cannot be read"):
        make(tmp_path / "a.h5")


def test_states_keep_the_precision_of_the_path():
    made = quench_snapshots(plan(count=1), LATTICE, SerialTransport())
    assert made.q.dtype == np.float64
    assert made.fields().dtype == torch.float64


def test_options_that_are_set_are_of_who_labels(tmp_path, monkeypatch):
    """Whoever drives the quenches has none of them."""
    monkeypatch.chdir(tmp_path)
    quench = ["label", "--lattice", "12x10", "--quenches", "1", "--per-quench", "2", "--quench-steps", "2"]
    local = ["--force", "local", "--set", "force.core=4"]
    assert main([*quench, *local, "--path-force", "neural", "--output", "neural.h5"]) == 0
    assert main([*quench, *local, "--output", "local.h5"]) == 0
    one, other = (dataset.read(name) for name in ("neural.h5", "local.h5"))
    assert one.label_attributes["provider.core"] == other.label_attributes["provider.core"] == 4
    assert [found.attributes["quench.path"] for found in (one, other)] == ["neural", "local"]
    assert np.array_equal(one.q[0], other.q[0])
    assert not np.array_equal(one.q[1], other.q[1])
