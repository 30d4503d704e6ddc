"""The energy-conserving network: what the conformance suite cannot know about it."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from commands import execute
from conformance.cases import build_model, random_q, wrapped

from hpc_holstein import dynamics
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import _neural, exact
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import read_card
from hpc_holstein.network.models import _enn_energy, enn_energy
from hpc_holstein.output.observables import energies
from hpc_holstein.storage.trajectory import open_trajectory
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.energy_constant import set_energy_constant
from hpc_holstein.training.fit import fit
from hpc_holstein.training.fit_options import FitOptions

G, KT = 3.5, 0.1
CELLS = 10
LATTICE = square.build((CELLS, CELLS))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLES = {
    "canonical": Ensemble("canonical", KT),
    "doped": Ensemble("canonical", KT, filling=0.4),
    "grand": Ensemble("grand-canonical", KT, chemical_potential=0.3),
}
each_ensemble = pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES)


def field(*shape, std=1.0, seed=3):
    return std * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def potential(network, x):
    """``Omega`` of the whole torus."""
    with torch.no_grad():
        return network.with_grand_potential(wrapped(x, network.reach))[1].sum(dim=(1, 2))


def provider(ensemble, name="enn_energy", lattice=LATTICE):
    domain = CartesianDomain(lattice, SerialTransport())
    return NeuralForces(build_model(name, lattice), HAMILTONIAN, domain, ensemble)


def energy(forces, q):
    """Conserved energy of NVE dynamics without the kinetic one, whole lattice."""
    state = State.at_rest(q)
    found = energies(state.moved(forces=forces(state)), 5.0, HAMILTONIAN, forces.domain, forces.ensemble)
    return float(found["total"]) * CELLS**2


def test_density_is_the_gradient_of_the_grand_potential():
    network, x, step = build_model("enn_energy", LATTICE), field(1, CELLS, CELLS), 1e-5
    with torch.no_grad():
        density = network(wrapped(x, network.reach))
    for site in ((0, 0, 0), (0, 9, 4), (0, 5, 5)):
        shift = torch.zeros_like(x)
        shift[site] = step
        slope = (potential(network, x + shift) - potential(network, x - shift)) / (2 * step)
        assert float(density[site]) == pytest.approx(float(-slope / G), abs=1e-7)


def test_grand_potential_is_even_up_to_the_classical_part():
    network, x = build_model("enn_energy", LATTICE), field(1, CELLS, CELLS)
    difference = potential(network, -x) - potential(network, x)
    assert float(difference) == pytest.approx(G * float(x.sum()), abs=1e-10)
    assert abs(float(difference)) > 1


def test_untrained_single_level_without_correction_is_the_atomic_limit():
    network = enn_energy.build(enn_energy.Options(levels=1), LATTICE).double()
    torch.nn.init.zeros_(network.head.weight)
    x = field(1, CELLS, CELLS)
    with torch.no_grad():
        density, omega = network.with_grand_potential(wrapped(x, network.reach))
    torch.testing.assert_close(density, torch.sigmoid(G * x / KT), rtol=0, atol=1e-12)
    torch.testing.assert_close(omega, -KT * torch.nn.functional.softplus(G * x / KT, threshold=100.0), rtol=0, atol=1e-12)


def test_gradient_does_not_depend_on_the_mode_of_the_caller():
    network, x = build_model("enn_energy", LATTICE), field(1, 14, 15)
    recorded = network(x)
    with torch.no_grad():
        plain = network(x)
    with torch.inference_mode():
        inferred, omega = network.with_grand_potential(x.clone())
    assert recorded.requires_grad
    assert [t.requires_grad for t in (plain, inferred, omega)] == [False] * 3
    for other in (plain, inferred):
        torch.testing.assert_close(other, recorded.detach(), rtol=0, atol=1e-13)


def test_loss_on_the_density_has_the_right_gradient():
    """Through the gradient: the derivative by one weight of each tensor against finite differences."""
    network, x, target = build_model("enn_energy", LATTICE), field(1, 14, 14), torch.rand(1, 6, 6, dtype=torch.float64)

    def loss():
        return (network(x) - target).square().mean()

    gradients = torch.autograd.grad(loss(), list(network.parameters()))
    for weight, gradient in zip(network.parameters(), gradients, strict=True):
        flat, values = weight.data.view(-1), []
        for sign in (1, -2):
            flat[0] += sign * 1e-5
            values.append(float(loss().detach()))
        flat[0] += 1e-5
        assert float(gradient.reshape(-1)[0]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_log_cosh_keeps_its_derivatives_at_zero_and_far_out():
    x = torch.tensor([0.0, 1e-9, -0.7, 3.0, 500.0], dtype=torch.float64, requires_grad=True)
    y = _enn_energy._LogCosh.apply(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first, x.tanh(), rtol=0, atol=1e-15)
    torch.testing.assert_close(second, 1 - x.tanh().square(), rtol=0, atol=1e-15)
    torch.testing.assert_close(y.detach()[[0, 4]], torch.tensor([math.log(2), 500.0]).double())


@each_ensemble
def test_force_is_the_gradient_of_the_energy(ensemble, monkeypatch):
    """Canonical: of ``Omega + mu N``, with a search for mu that goes on to less than the differences resolve."""
    monkeypatch.setattr(_neural, "_DENSITY_TOLERANCE", 1e-8)
    forces, q, step = provider(ensemble), random_q(CELLS, CELLS), 1e-4
    force = forces(State.at_rest(q)).force
    for site in ((0, 0), (9, 3), (4, 4)):
        shift = torch.zeros_like(q)
        shift[site] = step
        slope = (energy(forces, q + shift) - energy(forces, q - shift)) / (2 * step)
        assert float(force[site]) == pytest.approx(-slope, abs=1e-6)


@each_ensemble
def test_grand_potential_belongs_to_the_chemical_potential(ensemble):
    """The one that the solver ends at is that of an evaluation there; batches and windows change nothing."""
    forces, q = provider(ensemble), random_q(2, CELLS, CELLS)
    together = forces(State.at_rest(q))
    assert together.grand_potential.shape == (2,)
    for i in range(2):
        there = Ensemble("grand-canonical", KT, chemical_potential=float(together.chemical_potential[i]))
        alone = provider(there)(State.at_rest(q[i]))
        assert float(together.grand_potential[i]) == pytest.approx(float(alone.grand_potential), abs=1e-7)


def test_windows_change_nothing(monkeypatch):
    q, ensemble = random_q(CELLS, CELLS), ENSEMBLES["canonical"]
    whole = provider(ensemble)(State.at_rest(q))
    monkeypatch.setattr(_neural, "_LONGEST", {"cpu": 4})
    parts = provider(ensemble)(State.at_rest(q))
    assert torch.allclose(parts.force, whole.force, atol=1e-11)
    assert float(parts.grand_potential) == pytest.approx(float(whole.grand_potential), abs=1e-10)


def work_around_a_loop(name):
    """``sum_i int F_i dQ_i`` around a circle in the coordinates of two neighbours, by a rule exact for smooth loops."""
    forces, q = provider(ENSEMBLES["grand"], name), random_q(CELLS, CELLS, std=0.3)
    angles = torch.arange(192, dtype=torch.float64) * (2 * math.pi / 192)
    path = q.repeat(192, 1, 1, 1, 1)
    path[:, 4, 4, 0, 0] += 0.1 * angles.cos()
    path[:, 4, 5, 0, 0] += 0.1 * angles.sin()
    force = forces(State.at_rest(path)).force
    along = 0.1 * (angles.cos() * force[:, 4, 5, 0, 0] - angles.sin() * force[:, 4, 4, 0, 0])
    return float(along.mean()) * 2 * math.pi


def test_no_work_around_a_closed_loop():
    """The curl of the force vanishes; that of a network that predicts the density directly does not."""
    assert abs(work_around_a_loop("enn_energy")) < 1e-8
    assert abs(work_around_a_loop("enn")) > 1e-3


def test_nve_dynamics_conserves_the_energy():
    """Velocity Verlet: the energy error falls with the square of the time step."""

    torch.manual_seed(1)
    network = enn_energy.build(enn_energy.Options(), LATTICE).double()
    domain = CartesianDomain(LATTICE, SerialTransport())

    def largest_error(dt, steps):
        forces = NeuralForces(network, HAMILTONIAN, domain, ENSEMBLES["canonical"])
        scheme = dynamics.build("verlet-ou", 5.0, 0.0, dt, KT)
        state = scheme.init(State(random_q(CELLS, CELLS), random_q(CELLS, CELLS, std=0.3, seed=1)), forces)
        found = []
        for _ in range(steps):
            found.append(float(energies(state, 5.0, HAMILTONIAN, forces.domain, forces.ensemble)["total"]))
            state = scheme.step(state, forces, torch.zeros)  # without friction no noise is drawn
        return max(abs(value - found[0]) for value in found)

    coarse, fine = largest_error(0.01, 20), largest_error(0.005, 40)
    assert coarse < 1e-4
    assert 3.5 < coarse / fine < 4.5


def test_training_lowers_the_error():
    """On exact forces, through the gradient."""
    lattice = square.build((10, 10))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    ensemble = ENSEMBLES["canonical"]
    forces = exact.build(exact.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), ensemble)
    q = np.random.default_rng(0).normal(0, 3, (8, 10, 10))
    result = forces(State.at_rest(torch.from_numpy(q)[..., None, None]))
    snapshots = Snapshots.of(
        q,
        quench=np.repeat(np.arange(4), 2),
        force=result.force[..., 0, 0].numpy(),
        density=result.density[..., 0].numpy(),
        chemical_potential=result.chemical_potential.numpy(),
    )
    torch.manual_seed(0)
    network = enn_energy.build(enn_energy.Options(copies=2, levels=3), lattice)
    options = FitOptions(epochs=40, batch=2, validation=0.25, test=0.0, learning_rate=1e-2)
    trained = fit(network, snapshots, hamiltonian, ensemble, options, SerialTransport())
    assert trained.metrics["training"]["all"]["mse"] < 0.1 * trained.history[0]["training_mse"]
    with torch.no_grad():
        x = torch.from_numpy(q + snapshots.chemical_potential[:, None, None] / G).float()
        density = trained.model(wrapped(x, network.reach))
    mse = float((G * (density - result.density[..., 0]))[trained.sets["training"]].square().mean())
    assert mse == pytest.approx(trained.metrics["training"]["all"]["mse_at_reference_mu"], rel=1e-4)


@pytest.mark.parametrize("kT_range", [(), (0.05, 0.2)])
def test_constant_of_the_energy_is_that_of_exact_diagonalization(kT_range):
    """It moves the energy to the exact one at every kT that it is taken at, and no density."""
    torch.manual_seed(0)
    network = enn_energy.build(enn_energy.Options(copies=1, levels=3, kT_range=kT_range), LATTICE).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    q = random_q(6, CELLS, CELLS)
    temperatures = (0.05, 0.1, 0.2) if kT_range else (KT,)
    snapshots = Snapshots.of(
        q[..., 0, 0].numpy(),
        density=np.full((6, CELLS, CELLS), 0.5),
        chemical_potential=np.zeros(6),
        kT=np.resize([0.05, 0.2], 6) if kT_range else None,
    )

    def both(kT):
        ensemble, domain = Ensemble("grand-canonical", kT), CartesianDomain(LATTICE, SerialTransport())
        own = NeuralForces(network, HAMILTONIAN, domain, ensemble)(State.at_rest(q))
        return own, exact.build(exact.Options(), HAMILTONIAN, domain, ensemble)(State.at_rest(q))

    before = [both(kT)[0].density for kT in temperatures]
    rms = set_energy_constant(network, snapshots, HAMILTONIAN, LATTICE, KT)
    spread = []
    for kT, density in zip(temperatures, before, strict=True):
        own, truth = both(kT)
        difference = (own.grand_potential - truth.grand_potential) / CELLS**2
        assert abs(float(difference.mean())) < 1e-12
        spread.append(float(difference.square().mean()))
        torch.testing.assert_close(own.density, density, rtol=0, atol=1e-12)
    assert rms == pytest.approx(np.mean(spread) ** 0.5)


def test_commands(tmp_path, monkeypatch):
    """``train`` sets the constant and says what is left; a run without friction writes its energies and conserves them."""
    monkeypatch.chdir(tmp_path)
    one = SerialTransport()
    execute(one, "label", "--random", 12, "--lattice", "10x10", "--output", "data.h5")
    small = ["--set", "model.copies=1", "--set", "model.levels=2", "--set", "training.validation=0.4"]
    execute(one, "train", "data.h5", "--model", "enn_energy", "--epochs", 60, *small, "--output", "model")
    card = read_card(tmp_path / "model" / "model.safetensors")
    assert (card.predicts, card.reach) == ("grand_potential", 4)
    assert 0 < card.metrics["grand_potential_rmse_per_site"] < 1
    nve = ["--set", "dynamics.gamma=0.0", "--set", "dynamics.dt=0.002", "--set", "output.observables_every=2"]
    how = ["--force", "model/model.safetensors", "--preset", "paper-2601.04104", "--lattice", "10x10", "--dtype", "float64"]
    execute(one, "run", *how, *nve, "--steps", 10, "--output", "run")
    with open_trajectory(tmp_path / "run" / "trajectory.h5") as trajectory:
        series = trajectory.series()
    assert np.isfinite(series["electronic_energy"]).all()
    total = series["total_energy"]
    assert 0 < np.abs(total - total[0]).max() < 1e-2 * np.abs(series["kinetic_energy"] - series["kinetic_energy"][0]).max()


def test_single_precision_energy():
    q = random_q(CELLS, CELLS)
    forces = provider(ENSEMBLES["grand"])
    mixed = NeuralForces(
        build_model("enn_energy", LATTICE), HAMILTONIAN, forces.domain, ENSEMBLES["grand"], precision="float32"
    )
    full, rounded = (f(State.at_rest(q)).grand_potential for f in (forces, mixed))
    assert rounded.dtype == torch.float64
    assert 0 < abs(float(rounded - full)) < 1e-4 * CELLS**2


def test_network_keeps_what_it_was_given():
    """Forces of another coupling leave the module alone."""
    network = build_model("enn_energy", LATTICE)
    other = holstein.build(dataclasses.replace(holstein.Options(), g=3.0), LATTICE)
    domain = CartesianDomain(LATTICE, SerialTransport())
    NeuralForces(network, other, domain, ENSEMBLES["grand"])(State.at_rest(random_q(CELLS, CELLS)))
    assert (network.g, network.kT) == (3.5, 0.1)
