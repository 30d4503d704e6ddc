"""The model that comes with the package, on an exact quench that it has never seen, and on the symmetries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import neural
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.packaged import default_model_path
from hpc_holstein.training import dataset

QUENCH = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
T, G, K, KAPPA, KT = 1.0, 3.5, 1.0, 0.18, 0.1


@pytest.fixture(scope="module")
def quench():
    return dataset.read(QUENCH, require_labels=True)


def predicted(q, dtype=torch.float64, ensemble=None):
    lattice = square.build(q.shape[1:3])
    domain = CartesianDomain(lattice, SerialTransport())
    hamiltonian = holstein.build(holstein.Options(), lattice)
    ensemble = ensemble or Ensemble("canonical", KT)
    provider = neural.build(neural.Options(), hamiltonian, domain, ensemble)
    return provider(State.at_rest(torch.as_tensor(q)[..., None, None].to(dtype)))


def test_labels_are_those_of_an_independent_diagonalization(quench):
    """Plain NumPy, with mu by bisection: nothing in common with the package."""
    for number in (0, 5, 20):
        q = quench.q[number]
        n = q.size
        site = np.arange(n).reshape(q.shape)
        h = np.diag(-G * q.ravel())
        for axis in (0, 1):
            neighbour = np.roll(site, -1, axis)
            np.add.at(h, (site.ravel(), neighbour.ravel()), -T)
            np.add.at(h, (neighbour.ravel(), site.ravel()), -T)
        levels, states = np.linalg.eigh(h)
        low, high = levels[0], levels[-1]
        for _ in range(200):
            mu = 0.5 * (low + high)
            filled = 0.5 * (1 - np.tanh((levels - mu) / (2 * KT)))
            low, high = (mu, high) if filled.sum() < n / 2 else (low, mu)
        density = (states**2 @ filled).reshape(q.shape)
        neighbours = sum(np.roll(q, shift, axis) for shift in (1, -1) for axis in (0, 1))
        force = G * (density - 0.5) - K * q - KAPPA * neighbours
        np.testing.assert_allclose(quench.force[number], force, atol=1e-9)


def test_force_error_on_an_independent_quench(quench):
    error = predicted(quench.q).force[..., 0, 0].numpy() - quench.force
    assert np.mean(error**2) < 1e-3
    ordered = quench.step >= 800
    assert np.mean(error[ordered] ** 2) < 1e-5


def test_float32_is_as_accurate(quench):
    error = predicted(quench.q, torch.float32).force[..., 0, 0].double().numpy() - quench.force
    assert np.mean(error**2) < 1e-3


def test_trained_weights_are_equivariant():
    lattice = square.build((12, 12))
    module = load_model(default_model_path(), lattice)[0].double()
    pad = module.reach
    field = 3 * torch.randn(1, 12, 12, dtype=torch.float64)

    @torch.no_grad()
    def density(x):
        return module(functional.pad(x[:, None], (pad,) * 4, mode="circular")[:, 0])

    expected = density(field)
    for turns in range(4):
        for flip in (False, True):

            def move(x, turns=turns, flip=flip):
                x = torch.rot90(x, turns, (1, 2))
                return x.flip(1) if flip else x

            torch.testing.assert_close(density(move(field)), move(expected), rtol=0, atol=1e-12)
    for shift in ((y, x) for y in range(12) for x in range(12)):
        moved = density(field.roll(shift, (1, 2)))
        torch.testing.assert_close(moved, expected.roll(shift, (1, 2)), rtol=0, atol=1e-12)
    torch.testing.assert_close(density(-field), 1 - expected, rtol=0, atol=1e-12)


def test_other_fillings_conserve_the_electrons(quench):
    result = predicted(quench.q[10:11], ensemble=Ensemble("canonical", KT, filling=0.45))
    assert abs(float(result.density.mean()) - 0.45) < 1e-10
