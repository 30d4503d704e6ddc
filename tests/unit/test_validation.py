"""Metrics of one provider against another: closed forms, regimes, ranks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import DataError
from hpc_holstein.forces import atomic, exact, kpm, local
from hpc_holstein.forces._sampled import chosen_sites
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.training.budget import IntermediateForces, budget_table, error_budget, rung_force
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import label
from hpc_holstein.training.paths import RandomPlan, random_snapshots
from hpc_holstein.training.validation import UNITS, ForceSource, compare, force_metrics, summary
from hpc_holstein.training.verdict import JudgedForce, verdict

LATTICE = square.build((4, 4))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("grand-canonical", kT=0.1)
STEPS = {"hot": (0, 200), "coarsening": (200, 800), "ordered": (800, None)}
ONE = {"all": np.array([True])}


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
    row = force_metrics(predicted, reference, ONE)["all"]
    assert row["mse"] == pytest.approx(5 / 4)
    assert row["rmse"] == pytest.approx((5 / 4) ** 0.5)
    assert row["mae"] == pytest.approx(3 / 4)
    assert row["max_error"] == 2.0
    assert row["r2"] == pytest.approx(1 - 5 / 14)
    assert row["snapshots"] == 1


def test_a_provider_agrees_with_itself_and_json_takes_it():
    sides = ForceSource("one", make_exact), ForceSource("other", make_exact)
    result = compare(*sides, states(), LATTICE, SerialTransport(), steps=STEPS)
    assert result.metrics["all"]["mse"] == 0
    assert result.metrics["all"]["r2"] == 1
    assert result.metrics["all"]["values"] == 6 * 16
    assert result.metrics["all"]["chemical_potential_max_error"] == 0
    assert result.metrics["hot"]["reference_error_estimate"] == 1e-9  # what exact diagonalization promises
    assert result.seconds["hot"]["seconds_per_state"] > 0
    assert json.loads(json.dumps(result.metrics, allow_nan=False)) == result.metrics
    table = summary(result.metrics)
    assert "coarsening" in table
    assert "(t/a)^2" in table
    assert "reference" not in table  # no column that nothing is known of
    assert UNITS.keys() >= {key for row in (*result.metrics.values(), *result.seconds.values()) for key in row}


@pytest.mark.parametrize(("kind", "round_off"), [(np.float64, 1e-15), (np.float32, 1e-7)])
@pytest.mark.parametrize("value", [0.0, 2.5])
def test_reference_that_does_not_vary_has_no_r2(kind, round_off, value):
    noise = np.random.default_rng(1).normal(size=(2, 2, 3, 3))
    reference = np.stack([value + round_off * noise[0, 0], np.eye(3)]).astype(kind)
    predicted = reference.astype(float) + round_off * noise[1]
    masks = {"constant": np.array([True, False]), "varies": np.array([False, True])}
    row = force_metrics(predicted, reference, masks)
    assert row["constant"]["r2"] is None
    assert row["constant"]["mse"] < 1e-12
    assert row["varies"]["r2"] == pytest.approx(1, abs=1e-10)
    assert summary(row).splitlines()[2].split()[-1] == "-"
    assert force_metrics(np.ones((2, 3, 3)), reference, masks)["varies"]["r2"] == pytest.approx(1 - 6 / 2, abs=1e-6)


def test_reference_that_varies_less_than_its_own_error_has_no_r2():
    reference = 1e-8 * np.random.default_rng(1).normal(size=(1, 3, 3))
    assert force_metrics(reference, reference, ONE)["all"]["r2"] == 1
    assert force_metrics(reference, reference, ONE, error=1e-6)["all"]["r2"] is None


@pytest.mark.parametrize("judge", ["exact", "kpm", "labels"])
def test_forces_of_uniform_states_are_constant(judge):
    """R2 of round-off against round-off would be any number."""
    uniform = Snapshots.of(np.zeros((2, 4, 4)))
    if judge == "labels":
        uniform = label(uniform, LATTICE, SerialTransport(), make_exact, {})
    makers = {"exact": make_exact, "kpm": lambda domain: kpm.build(kpm.Options(), HAMILTONIAN, domain, ENSEMBLE)}
    for make in makers.values():
        found = compare(ForceSource("judged", make), ForceSource(judge, makers.get(judge)), uniform, LATTICE, SerialTransport())
        assert found.metrics["all"]["r2"] is None
        assert found.metrics["all"]["mse"] < 1e-16


def test_stored_labels_a_second_provider_and_ranks_agree():
    labelled = label(states(), LATTICE, SerialTransport(), make_exact, {})
    judged = ForceSource("force atomic", make_atomic)
    stored = compare(judged, ForceSource("labels", None), labelled, LATTICE, SerialTransport())
    assert 1e-5 < stored.metrics["all"]["mse"] < 1
    assert stored.seconds["all"]["reference_seconds_per_state"] is None
    expected = np.mean((label(states(), LATTICE, SerialTransport(), make_atomic, {}).force - labelled.force) ** 2)
    assert stored.metrics["all"]["mse"] == pytest.approx(expected)
    truth = ForceSource("reference exact", make_exact)
    for result in run_in_process(2, lambda t: compare(judged, truth, states(), LATTICE, t)):
        for name, row in stored.metrics.items():
            assert {**row, "reference_error_estimate": 1e-9} == result.metrics[name]
    np.testing.assert_array_equal(stored.reference.snapshots.force, labelled.force)


def test_unlabelled_states_need_a_reference():
    with pytest.raises(DataError, match="carry no force to compare with"):
        compare(ForceSource("force", make_atomic), ForceSource("labels", None), states(), LATTICE, SerialTransport())


def test_forces_that_are_not_finite_are_no_result():
    with pytest.raises(DataError, match="1 of the 4 forces"):
        force_metrics(np.array([[[np.nan, 0], [0, 0]]]), np.zeros((1, 2, 2)), ONE)


# --- a sample of the sites ----------------------------------------------------------------------------------------------

LARGE = square.build((9, 10))
CANONICAL = Ensemble("canonical", kT=0.1)
NUMBERS = chosen_sites(LARGE, 12, seed=3).numpy()


def maker(kind, ensemble=CANONICAL, **options):
    system = holstein.build(holstein.Options(), LARGE)
    return lambda domain: kind.build(kind.Options(**options), system, domain, ensemble)


def large_states():
    return random_snapshots(RandomPlan(2, 4.0, seed=5), LARGE)


EXACT, FLOOR = (
    ForceSource("reference exact", maker(exact)),
    ForceSource("force local", maker(local, reach=1, sites=12, seed=3), sampled=True),
)
ATOMIC = ForceSource("force atomic", maker(atomic))


def test_sampled_reference_takes_mu_of_a_judge_that_promises_a_tolerance():
    sampled = ForceSource("reference local", FLOOR.make, sampled=True)
    judged = ForceSource("force exact", maker(exact))
    result = compare(judged, sampled, large_states(), LARGE, SerialTransport(), NUMBERS, potential=ATOMIC)
    assert result.potential_of == "force exact"
    assert "chemical_potential_max_error" not in result.metrics["all"]
    kept = np.isfinite(result.reference.snapshots.force)
    assert kept.sum() == result.metrics["all"]["values"] == 24
    assert np.flatnonzero(kept[0]).tolist() == NUMBERS.tolist()
    mu = result.predicted.snapshots.chemical_potential
    np.testing.assert_array_equal(result.chemical_potential, mu)
    for i, snapshot in enumerate(large_states().fields()):
        domain = CartesianDomain(LARGE, SerialTransport())
        fixed = Ensemble("grand-canonical", kT=0.1, chemical_potential=float(mu[i]))
        expected = maker(local, fixed, reach=1)(domain)(State.at_rest(snapshot)).force[..., 0, 0].numpy()
        np.testing.assert_allclose(result.reference.snapshots.force[i][kept[i]], expected[kept[i]], atol=1e-12)


def test_sampled_side_takes_mu_of_a_third_provider_when_the_other_promises_nothing():
    sampled = ForceSource("reference local", FLOOR.make, sampled=True)
    third = ForceSource("somebody", maker(exact))
    found = compare(ATOMIC, sampled, large_states(), LARGE, SerialTransport(), NUMBERS, potential=third)
    assert found.potential_of == "somebody"
    right = compare(third, sampled, large_states(), LARGE, SerialTransport(), NUMBERS, potential=third)
    np.testing.assert_array_equal(found.reference.snapshots.force, right.reference.snapshots.force)


def test_whole_reference_is_compared_at_the_chosen_sites_and_gives_its_mu():
    result = compare(FLOOR, EXACT, large_states(), LARGE, SerialTransport(), NUMBERS, potential=ATOMIC)
    assert result.potential_of == "reference exact"
    assert result.metrics["all"]["values"] == 24
    stored = label(large_states(), LARGE, SerialTransport(), EXACT.make, {})
    labelled = compare(
        FLOOR, ForceSource("reference labels", None), stored, LARGE, SerialTransport(), NUMBERS, potential=ATOMIC
    )
    assert labelled.potential_of == "reference labels"
    assert labelled.metrics["all"]["mse"] == result.metrics["all"]["mse"] > 0


def test_grand_canonical_samples_need_no_mu():
    fixed = Ensemble("grand-canonical", kT=0.1, chemical_potential=0.3)
    judged = ForceSource("force local", maker(local, fixed, reach=2, sites=12, seed=3), sampled=True)
    whole = ForceSource("reference local", maker(local, fixed, reach=2))
    result = compare(judged, whole, large_states(), LARGE, SerialTransport(), NUMBERS)
    assert result.potential_of is None
    assert result.metrics["all"]["max_error"] < 1e-12


# --- error budget -------------------------------------------------------------------------------------------------------


def at(kind, **options):
    return lambda ensemble: maker(kind, ensemble, **options)


def test_budget_of_a_local_force_is_its_mu_and_its_reach():
    """By hand: local forces at its own mu, at that of the reference, and the exact ones."""
    judged = ForceSource("force local", maker(local, reach=1))
    found = compare(judged, EXACT, large_states(), LARGE, SerialTransport())
    mu = found.chemical_potential
    parts = error_budget(found, [IntermediateForces("mu", at(local, reach=1), mu)], "reach", 0.1, LARGE, SerialTransport())
    assert [part.name for part in parts] == ["mu", "reach", "total"]
    domain = CartesianDomain(LARGE, SerialTransport())
    moved = []
    for i, q in enumerate(large_states().fields()):
        fixed = Ensemble("grand-canonical", kT=0.1, chemical_potential=float(mu[i]))
        moved.append(maker(local, fixed, reach=1)(domain)(State.at_rest(q)).force[..., 0, 0].numpy())
    own, true = found.predicted.snapshots.force, found.reference.snapshots.force
    for part, difference in zip(parts, (own - moved, moved - true, own - true), strict=True):
        assert part.rms == pytest.approx(np.sqrt(np.mean(difference**2)), rel=1e-12)
        assert part.max == pytest.approx(np.abs(difference).max(), rel=1e-12)
        assert part.values == 180
        assert part.rms > 1e-6
    assert parts[2].rms == found.metrics["all"]["rmse"]
    assert "total" in budget_table(parts)


def test_budget_with_sampled_rungs_is_at_their_sites():
    found = compare(ATOMIC, EXACT, large_states(), LARGE, SerialTransport())
    rungs = [IntermediateForces("atomic", at(local, reach=1, sites=12, seed=3), found.chemical_potential)]
    alone = error_budget(found, rungs, "reach", 0.1, LARGE, SerialTransport())
    assert {part.values for part in alone} == {24}
    for shared in run_in_process(3, lambda t: error_budget(found, rungs, "reach", 0.1, LARGE, t)):  # 3 x 10 cells a rank
        for one, many in zip(alone, shared, strict=True):
            assert many.rms == pytest.approx(one.rms, rel=1e-9)


def judged(shift, wrong=0.0):
    """A comparison of the exact forces, but for ``mu`` and a force on one site of each state, with the exact ones."""
    ensemble = Ensemble("canonical", kT=0.1, filling=0.4)

    class Shifted:
        reach, tolerance = None, None

        def __init__(self, domain, chemical_potential=None):
            self.domain, self.known = domain, chemical_potential

        def __call__(self, state):
            found = exact.build(exact.Options(), HAMILTONIAN, self.domain, ensemble)(state)
            mu = found.chemical_potential + shift if self.known is None else torch.tensor(self.known)
            fixed = Ensemble("grand-canonical", kT=0.1, chemical_potential=float(mu))
            moved = exact.build(exact.Options(), HAMILTONIAN, self.domain, fixed)(State.at_rest(state.q))
            moved.force[0, 0] += wrong
            return moved

    def make(domain):
        return exact.build(exact.Options(), HAMILTONIAN, domain, ensemble)

    found = compare(ForceSource("judged", Shifted), ForceSource("exact", make), states(), LATTICE, SerialTransport())

    def fixed(given):
        return lambda domain: Shifted(domain, given.chemical_potential)

    rung = IntermediateForces("chemical potential", fixed, found.chemical_potential)
    return found, rung_force(found, rung, 0.1, LATTICE, SerialTransport())


def test_the_verdict_tells_the_chemical_potential_from_the_force():
    subject = JudgedForce("the network", "train the electron number", "train longer")
    found, fixed = judged(shift=0.8, wrong=0.01)
    told = verdict(found, fixed, subject)
    assert told.mse_at_reference_mu == pytest.approx(1e-4 / 16)
    assert told.chemical_potential_share == pytest.approx(1 - 1e-4 / 16 / found.metrics["all"]["mse"])
    assert told.chemical_potential_mean_error == pytest.approx(0.8)
    assert "% of the mean square error is the chemical potential, which the network puts 0.8 t_nn too high" in told.sentence
    assert told.sentence.endswith("train the electron number")
    assert found.metrics["all"]["mse_at_reference_mu"] == told.mse_at_reference_mu
    told = verdict(*judged(shift=-1e-4, wrong=1.0), subject)
    assert told.sentence.startswith("nearly all of the error is that of the force of the network")
    assert told.sentence.endswith("train longer")


def test_the_verdict_on_forces_that_agree():
    found, fixed = judged(shift=0.0)
    assert (
        "within the error that the reference states for itself, 1.0e-09 t_nn/a"
        in verdict(found, fixed, JudgedForce("x")).sentence
    )
    found, _ = judged(shift=0.0, wrong=0.1)
    assert verdict(found, None, JudgedForce("kpm")).sentence == "all of the error is that of the force of kpm"


@pytest.mark.parametrize(("training", "words"), [({}, "label with --more-mu"), ({"electron_number": 0.3}, "train longer")])
def test_what_a_network_is_told_depends_on_its_training(training, words):
    assert JudgedForce.of_network(training).of_potential.startswith(words)


@pytest.mark.parametrize("training", [{}, {"electron_number": 0.3}])
def test_the_verdict_on_both_parts_gives_each_remedy_once(training):
    told = verdict(*judged(shift=0.05, wrong=0.6), JudgedForce.of_network(training))
    assert told.chemical_potential_share is not None
    assert 0.1 < told.chemical_potential_share < 0.5
    for words in ("train longer", "hpc-holstein learn", "training.electron_number"):
        assert told.sentence.count(words) == 1
