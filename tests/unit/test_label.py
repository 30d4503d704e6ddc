"""Making and labelling snapshots: the same on any number of ranks, and after an interruption."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from small_labels import (
    ENSEMBLE,
    HAMILTONIAN,
    LATTICE,
    WIDE,
    InterruptedJobError,
    counting,
    exactly_batched,
    make,
    make_atomic,
    make_exact,
    make_local,
    plan,
    reference_labels,
    stopping,
)

from hpc_holstein.config import load_config
from hpc_holstein.config.builders import build_system, forces_maker
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, DataError, StoppedError
from hpc_holstein.training import dataset
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import LABELS, Snapshots
from hpc_holstein.training.label import label, label_file, make_file
from hpc_holstein.training.paths import (
    RandomPlan,
    early_dense_steps,
    even_steps,
    quench_snapshots,
    random_snapshots,
)


def test_labels_agree_with_an_independent_diagonalization():
    states = random_snapshots(RandomPlan(3, 2.0, seed=1), LATTICE)
    made = label(states, LATTICE, SerialTransport(), make_exact, {"provider": "exact"})
    for i, q in enumerate(states.q):
        force, n, mu = reference_labels(q)
        np.testing.assert_allclose(made.force[i], force, atol=1e-9)
        np.testing.assert_allclose(made.density[i], n, atol=1e-9)
        assert made.chemical_potential[i] == pytest.approx(mu, abs=1e-6)
    assert made.label_attributes == {"provider": "exact"}


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_labels_do_not_depend_on_the_number_of_ranks(ranks):
    states = random_snapshots(RandomPlan(4, 2.0, seed=1), LATTICE)
    alone = label(states, LATTICE, SerialTransport(), make_exact, {})
    for made in run_in_process(ranks, lambda t: label(states, LATTICE, t, make_exact, {})):
        for name in LABELS:
            np.testing.assert_array_equal(getattr(made, name), getattr(alone, name))


def test_float32_states_get_labels_of_float64_accuracy():
    q = random_snapshots(RandomPlan(1, 2.0, seed=1), LATTICE).q.astype(np.float32)
    made = label(Snapshots.of(q), LATTICE, SerialTransport(), make_exact, {})
    np.testing.assert_allclose(made.force[0], reference_labels(q[0].astype(np.float64))[0], atol=1e-9)


def test_another_lattice_is_refused():
    with pytest.raises(DataError, match=r"snapshots of 3x3 cells do not fit the lattice 4x6"):
        label(Snapshots.of(np.zeros((1, 3, 3))), LATTICE, SerialTransport(), make_exact, {})


def test_random_snapshots_are_keyed_by_seed_and_number():
    few, more = (random_snapshots(RandomPlan(count, 5.27, seed=3), LATTICE) for count in (2, 400))
    np.testing.assert_array_equal(more.q[:2], few.q)
    assert more.quench.tolist() == [-1] * 400
    assert more.q.std() == pytest.approx(5.27, rel=0.03)
    assert abs(more.q.mean()) < 0.2
    assert not np.array_equal(random_snapshots(RandomPlan(2, 5.27, seed=4), LATTICE).q, few.q)


def test_schedules():
    assert even_steps(60, 20) == (0, 20, 40, 60)
    steps = early_dense_steps(2000, 60)
    assert steps[0] == 0
    assert steps[-1] == 2000
    assert 50 <= len(steps) <= 60
    gaps = np.diff(steps)
    assert gaps.min() >= 1
    assert np.all(gaps[1:] >= gaps[:-1] - 1)
    assert sum(step <= 200 for step in steps) > len(steps) / 3


@pytest.mark.parametrize("changes", [{"steps": ()}, {"steps": (3, 3)}, {"steps": (-1, 2)}, {"count": 0}])
def test_impossible_plans_are_refused(changes):
    with pytest.raises(ConfigError):
        plan(**changes)


def test_quench_follows_the_published_scheme():
    made = quench_snapshots(plan(count=1, steps=(0, 1, 2)), LATTICE, SerialTransport())
    assert made.step.tolist() == [0, 1, 2]
    q0, q1, q2 = made.q
    assert q0.std() == pytest.approx(5.27, rel=0.5)

    def force(q):
        return label(Snapshots.of(q[None]), LATTICE, SerialTransport(), make_atomic, {}).force[0]

    # The velocity before the first step follows from the first displacement, the noise from the second.
    v0 = (q1 - q0) / 0.05 - 0.05 * force(q0) / 10
    v1 = (q2 - q1) / 0.05 - 0.05 * force(q1) / 10
    a = np.exp(-0.2 * 0.05)
    xi = (v1 - a * (v0 + 0.05 * (force(q0) + force(q1)) / 10)) / np.sqrt((1 - a * a) * 0.1 / 5)
    assert v0.std() == pytest.approx(1.0, rel=0.5)
    assert xi.std() == pytest.approx(1.0, rel=0.5)
    assert abs(np.corrcoef(v0.ravel(), q0.ravel())[0, 1]) < 0.6


@pytest.mark.parametrize("together", [1, 2, 3])
def test_quenches_do_not_depend_on_the_ranks_or_on_their_company_and_are_ordered(together, monkeypatch):
    """Bit for bit, with forces that say that batches change none."""
    single = quench_snapshots(plan(make_forces=counting(make_atomic, [])), LATTICE, SerialTransport())  # says nothing: alone
    monkeypatch.setattr("hpc_holstein.training.paths._TOGETHER", together * LATTICE.sites)
    log = []

    def make_counted(domain):
        forces = counting(make_atomic, log)(domain)
        forces.batches_exactly = True
        return forces

    alone = quench_snapshots(plan(make_forces=make_counted), LATTICE, SerialTransport())
    assert len(log) == 10 * -(-3 // together)
    assert alone.quench.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert alone.step.tolist() == [0, 1, 4, 9] * 3
    assert np.abs(alone.q[0] - alone.q[4]).max() > 1
    np.testing.assert_array_equal(alone.q, single.q)
    for ranks in (2, 4):
        for made in run_in_process(ranks, lambda t: quench_snapshots(plan(make_forces=make_counted), LATTICE, t)):
            np.testing.assert_array_equal(made.q, alone.q)


def test_quenches_that_a_network_drives_move_together_bit_for_bit(monkeypatch):
    def quenches(**changes):
        config = load_config(None, "paper-2601.04104", {"lattice.extent": [12, 9]})
        system = build_system(config)
        driver = forces_maker(system, config.force, mixed=True)
        return quench_snapshots(plan(make_forces=driver, steps=(0, 7), **changes), system.lattice, SerialTransport())

    together = quenches()
    monkeypatch.setattr("hpc_holstein.training.paths._TOGETHER", 1)
    np.testing.assert_array_equal(quenches().q, together.q)


def test_made_file_says_how_it_was_made(tmp_path):
    seen = []
    make_file(
        tmp_path / "a.h5",
        LATTICE,
        SerialTransport(),
        make_exact,
        dataset.physics_attributes(LATTICE, HAMILTONIAN, ENSEMBLE),
        {"provider": "exact"},
        RandomPlan(2, 5.27, seed=2),
        plan(),
        progress=lambda *report: seen.append(report),
    )
    back = dataset.read(tmp_path / "a.h5", require_labels=True)
    assert len(back) == 2 + 12
    said = back.attributes
    assert said["quench.path"] == "atomic"
    assert (said["hamiltonian"], said["hamiltonian.g"], said["ensemble.filling"], said["kT"]) == ("holstein", 3.5, 0.5, 0.1)
    assert said["random.seed"] == 2
    assert {"version.torch", "version.h5py", "version.numpy", "version.hpc_holstein"} <= said.keys()
    assert back.label_attributes["provider"] == "exact"
    assert seen[0] == ("quench", 3, 12)  # all three move together
    assert seen[-1] == ("label", 14, 14)
    with pytest.raises(DataError, match="exists already"):
        make(tmp_path / "a.h5")
    with pytest.raises(ConfigError, match="neither"):
        make_file(tmp_path / "b.h5", LATTICE, SerialTransport(), make_exact, {}, {})


@pytest.mark.parametrize("calls", [3, 16])
def test_interrupted_labels_continue_to_the_same_file(tmp_path, calls, monkeypatch):
    monkeypatch.setattr("hpc_holstein.training.label._SAVE_EVERY", 2)
    whole = make(tmp_path / "whole.h5")
    target = tmp_path / "a.h5"
    with pytest.raises(InterruptedJobError):
        make(target, make_forces=stopping(make_exact, calls))
    assert not target.exists()
    with pytest.raises(DataError, match="other states or settings"):
        make(target, seed=8)
    log = []
    run_in_process(2, lambda t: make(target, t, counting(make_exact, log)))  # on another number of ranks
    assert len(log) == 17 - 2 * (calls // 2)
    back = dataset.read(target)
    assert back.data_hash == whole.data_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


def test_interrupted_quench_continues_bitwise(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_holstein.training.paths._SAVE_EVERY", 2)
    whole = quench_snapshots(plan(), LATTICE, SerialTransport())
    parts = Parts(tmp_path / "a.h5", {})
    log = []
    for calls in (2, 8, 9):  # a quench takes 10 calls and is kept after steps 1 and 9; this driver takes no batches
        driver = counting(stopping(make_atomic, calls), log)
        with pytest.raises(InterruptedJobError):
            quench_snapshots(plan(make_forces=driver), LATTICE, SerialTransport(), parts)
    log.clear()
    made = quench_snapshots(plan(make_forces=counting(make_atomic, log)), LATTICE, SerialTransport(), parts)
    assert len(log) == 8 + 10  # 2 calls: nothing kept; 8: step 1 of quench 0; 9: all of quench 0 and step 1 of quench 1
    np.testing.assert_array_equal(made.q, whole.q)


@pytest.mark.parametrize("looks", [1, 6, 14, 22])
def test_labels_that_are_told_to_stop_go_on_to_the_same_file_on_other_ranks(tmp_path, looks, monkeypatch):
    """During the quenches (9 looks for all three) and during the labels, on the rank that is told and on those that are not."""
    whole = make(tmp_path / "whole.h5", make_forces=exactly_batched)
    target, left = tmp_path / "a.h5", [looks]

    def stop():
        left[0] -= 1
        return "a test said so" if left[0] < 0 else None

    with pytest.raises(StoppedError, match="a test said so"):
        make(target, make_forces=exactly_batched, stop=stop)
    assert not target.exists()
    assert list(tmp_path.glob(".a.h5.*.part"))
    told = [lambda: None, lambda: "rank 1 of two"]
    with pytest.raises(StoppedError, match="rank 1 of two"):
        run_in_process(2, lambda t: make(target, t, make_forces=exactly_batched, stop=told[t.rank]))
    run_in_process(3, lambda t: make(target, t, make_forces=exactly_batched))
    assert dataset.read(target).data_hash == whole.data_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


def test_a_snapshot_that_ranks_share_is_left_by_all_of_them(tmp_path):
    states = random_snapshots(RandomPlan(1, 2.0, seed=1), WIDE)
    with pytest.raises(StoppedError, match="rank 1"):
        run_in_process(2, lambda t: label(states, WIDE, t, make_local, {}, stop=lambda: "rank 1 was told" if t.rank else None))


def test_external_file_is_labelled_on_ranks_and_otherwise_unchanged(tmp_path):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["q"] = random_snapshots(RandomPlan(3, 2.0, seed=1), LATTICE).q
        file["theirs"] = np.arange(4)
    run_in_process(
        2, lambda t: label_file(tmp_path / "in.h5", tmp_path / "out.h5", LATTICE, t, make_exact, {"provider": "exact"})
    )
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {"q", "theirs", *LABELS}
        np.testing.assert_allclose(file["force"][2], reference_labels(file["q"][2])[0], atol=1e-9)
        assert file["density"].attrs["provider"] == "exact"
    with pytest.raises(DataError, match="exists already"):
        run_in_process(2, lambda t: label_file(tmp_path / "in.h5", tmp_path / "out.h5", LATTICE, t, make_exact, {}))
    with pytest.raises(DataError, match="holds force"):
        label_file(tmp_path / "out.h5", tmp_path / "again.h5", LATTICE, SerialTransport(), make_exact, {})
