"""Training of the electron number, and trainings that are refused."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from small_fits import ENSEMBLE, HAMILTONIAN, KT, G, Responsive, Stencil, curve, data, options, run

from hpc_holstein.domain.transport import run_in_process
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.training._fields import FieldData
from hpc_holstein.training.own_potential import OwnPotential, electron_number_part


def test_what_a_wrong_electron_number_costs():
    """The loss against NumPy: a shift of mu moves each force by its share of the response."""
    snapshots, model = data(), Responsive().double()
    fields = FieldData(snapshots, model, G, torch.float64, torch.device("cpu"))
    index = torch.tensor([3, 0, 5])
    inputs, targets = fields.whole(index)
    density, response = (part.detach().numpy() for part in model.response(inputs))
    expected = 0.0
    for n, wanted, s in zip(density, targets.numpy(), response, strict=True):
        error = G * (n - wanted)
        expected += np.mean(error**2) + np.mean((s * error.mean() / s.mean()) ** 2)
    np.testing.assert_allclose(fields.canonical_loss(model, index).item(), expected, rtol=1e-12)


def test_two_ranks_learn_the_electron_number_as_one():
    opts = options(dtype="float64", electron_number=True, batch=3)
    alone = run(opts, model=Responsive())
    for result in run_in_process(2, lambda t: run(opts, t, model=Responsive(seed=t.rank))):
        np.testing.assert_allclose(curve(result), curve(alone), rtol=1e-9)


def worse(**changes):
    """A training that only gets worse."""
    return options(learning_rate=1e4, clip=0.0, **changes)


def test_a_training_that_only_gets_worse_is_refused():
    result = run(worse())
    assert result.metrics["best_epoch"] == 0
    assert re.search(r"of 6 epochs is \S+ \(t_nn/a\)\^2, not below \S+ of", result.refused)
    assert run(options(epochs=60)).refused is None
    poisoned = Stencil()
    poisoned.layers[1].bias.register_hook(lambda gradient: gradient * math.nan)
    assert run(options(clip=0.0), model=poisoned).refused is not None


def test_a_training_of_a_model_is_never_worse_than_it():
    trained = run(options(epochs=60)).model
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    result = run(worse(), model=trained, start="its hash")
    assert (result.refused, result.metrics["best_epoch"]) == (None, 0)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert run(worse(), model=Stencil(), start="worse than the baseline").refused is not None


def test_the_last_part_is_judged_at_the_potential_that_the_network_finds():
    result = run(options(epochs=40), model=Responsive())
    stages = [row["stage"] for row in result.history]
    assert stages == [1] * 28 + [2] * 12
    validation = result.metrics["validation"]["all"]
    best = min(row["validation_mse"] for row in result.history if row["stage"] == 2)
    assert validation["mse"] == pytest.approx(min(best, result.history[28]["best_mse"]), rel=1e-5)
    assert validation["mse"] != pytest.approx(validation["mse_at_reference_mu"], rel=1e-3)
    assert result.metrics["baseline_mse"] != result.metrics["baseline_mse_at_reference_mu"]


def test_own_potential_against_bisection():
    """Force and mu of a network for the electrons of the labels, whatever coupling a snapshot has."""
    model, snapshots = Stencil().double().eval(), data()
    scaled = dataclasses.replace(
        snapshots, q=snapshots.q * (G / 2), g=np.full(20, 2.0), chemical_potential=snapshots.chemical_potential
    )
    index = np.array([4, 17])
    for states, g in ((snapshots, G), (scaled, 2.0)):
        judge = OwnPotential(states, HAMILTONIAN, ENSEMBLE, torch.device("cpu"))
        force, mu = judge.of_network(model, index, torch.float64)
        for i, error, shift in zip(index, force, mu, strict=True):

            def density(potential, q=snapshots.q[i]):
                field = np.pad(q + potential / G, 2, mode="wrap")
                with torch.no_grad():
                    return model(torch.from_numpy(field[None]))[0].numpy()

            wanted = snapshots.density[i].mean()
            found = brentq(lambda potential, n=density, w=wanted: n(potential).mean() - w, -20, 20, xtol=1e-12)
            assert snapshots.chemical_potential[i] + shift == pytest.approx(found, abs=1e-5)
            np.testing.assert_allclose(error, g * (density(found) - snapshots.density[i]), atol=1e-4)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_a_part_of_a_training_is_a_fraction(fraction):
    with pytest.raises(ConfigError, match="is no part of a training"):
        options(electron_number=fraction)


@pytest.mark.parametrize(
    ("model", "changes", "ensemble", "expected"),
    [
        (Responsive(), {}, ENSEMBLE, 0.3),
        (Responsive(), {"electron_number": True}, ENSEMBLE, 1.0),
        (Responsive(), {"electron_number": False}, ENSEMBLE, 0.0),
        (Responsive(), {"electron_number": 0.5}, ENSEMBLE, 0.5),
        (Responsive(), {}, Ensemble("grand-canonical", kT=KT), 0.0),
        (Responsive("plain"), {}, ENSEMBLE, 0.0),
    ],
)
def test_the_part_that_trains_the_electron_number(model, changes, ensemble, expected):
    assert electron_number_part(options(**changes), model, ensemble) == (expected, "")


@pytest.mark.parametrize(("model", "changes"), [(Responsive(), {"crop": 6}), (Stencil(), {})])
def test_without_it_a_sentence_says_why(model, changes):
    part, why = electron_number_part(options(**changes), model, ENSEMBLE)
    assert part == 0
    assert "the electron number is not trained, which needs whole snapshots (crop = 0) and a model that knows" in why


@pytest.mark.parametrize(("model", "changes"), [(Responsive, {"crop": 6}), (Stencil, {})])
def test_electron_number_of_windows_or_without_a_response_is_refused(model, changes):
    with pytest.raises(ConfigError, match=r"training\.electron_number = true needs whole snapshots"):
        run(options(electron_number=True, **changes), model=model())
