"""Metrics of one provider against another: closed forms, regimes, ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.forces import atomic, exact
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import label
from hpc_holstein.training.paths import RandomPlan, random_snapshots
from hpc_holstein.training.validation import compare, force_metrics, regimes, summary

LATTICE = square.build((4, 4))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("grand-canonical", kT=0.1)


def make_exact(domain):
    return exact.build(exact.Options(), HAMILTONIAN, domain, ENSEMBLE)


def make_atomic(domain):
    return atomic.build(atomic.Options(), HAMILTONIAN, domain, ENSEMBLE)


def states():
    q = random_snapshots(RandomPlan(6, 2.0, seed=0), LATTICE).q
    return Snapshots.of(q, quench=[-1, 0, 0, 0, 0, 1], step=[0, 0, 199, 200, 800, 5000])


def test_metrics_are_their_definitions():
    reference = np.array([[[1.0, 2.0], [3.0, 6.0]]])
    predicted = reference + np.array([[[0.0, 1.0], [-2.0, 0.0]]])
    row = force_metrics(predicted, reference, np.array([0]), np.array([0]))["hot"]
    assert row["mse"] == pytest.approx(5 / 4)
    assert row["rmse"] == pytest.approx((5 / 4) ** 0.5)
    assert row["mae"] == pytest.approx(3 / 4)
    assert row["max_error"] == 2.0
    assert row["r2"] == pytest.approx(1 - 5 / 14)
    assert row["snapshots"] == 1


def test_regimes_by_step_and_random_apart():
    made = states()
    masks = {name: np.flatnonzero(mask).tolist() for name, mask in regimes(made.quench, made.step).items()}
    assert masks == {"all": [0, 1, 2, 3, 4, 5], "random": [0], "hot": [1, 2], "coarsening": [3], "ordered": [4, 5]}
    assert set(regimes(np.array([-1]), np.array([0]))) == {"all", "random"}


def test_a_provider_agrees_with_itself_and_json_takes_it():
    result = compare(make_exact, states(), LATTICE, SerialTransport(), make_exact)
    assert result.metrics["all"]["mse"] == 0
    assert result.metrics["all"]["r2"] == 1
    assert result.metrics["chemical_potential_max_error"] == 0
    assert json.loads(json.dumps(result.metrics, allow_nan=False)) == result.metrics
    assert "coarsening" in summary(result.metrics)


def test_reference_that_does_not_vary_has_no_r2():
    row = force_metrics(np.ones((1, 2, 2)), np.zeros((1, 2, 2)), np.array([0]), np.array([0]))
    assert row["all"]["r2"] is None
    assert "-" in summary(row)


def test_stored_labels_a_second_provider_and_ranks_agree():
    labelled = label(states(), LATTICE, SerialTransport(), make_exact, {})
    stored = compare(make_atomic, labelled, LATTICE, SerialTransport())
    assert 1e-5 < stored.metrics["all"]["mse"] < 1
    expected = np.mean((label(states(), LATTICE, SerialTransport(), make_atomic, {}).force - labelled.force) ** 2)
    assert stored.metrics["all"]["mse"] == pytest.approx(expected)
    for result in run_in_process(2, lambda t: compare(make_atomic, states(), LATTICE, t, make_exact)):
        assert result.metrics == stored.metrics
    np.testing.assert_array_equal(stored.reference.force, labelled.force)


def test_unlabelled_states_need_a_reference():
    with pytest.raises(DataError, match="carry no force to compare with"):
        compare(make_atomic, states(), LATTICE, SerialTransport())
