"""One network at every coupling, and at every common scale of the energies: the identities that it rests on, to round-off."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conformance.cases import build_hamiltonian, build_model

from hpc_holstein.cli import main
from hpc_holstein.cli.train import warm_start
from hpc_holstein.config import kinds
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import exact, neural
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State, System
from hpc_holstein.lattice import square
from hpc_holstein.network import models
from hpc_holstein.network.checkpoint import load_model, make_card, model_hash, read_card, save_model
from hpc_holstein.network.packaged import default_model_path, packaged

LATTICE = square.build((12, 10))
DOMAIN = CartesianDomain(LATTICE, SerialTransport())
OWN = holstein.Options()
OWN_MODEL = "paper-2601.04104"
KT = 0.1
SCALES = [(3.0, 1.0), (-3.5, 1.0), (7.0, 2.0), (1.5, 0.5), (3.0, -1.0)]
"""``g`` and ``t``."""
each_scale = pytest.mark.parametrize(("g", "t"), SCALES)


@pytest.fixture(scope="module", params=["enn", "enn_energy"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model file of either kind, with weights away from their start."""
    name = request.param
    path, module = tmp_path_factory.mktemp("model") / f"{name}.safetensors", build_model(name, LATTICE)
    source = __import__(f"{models.__name__}.{name}", fromlist=["Options"])
    system = holstein.build(OWN, LATTICE), LATTICE, Ensemble("canonical", KT)
    save_model(path, module, make_card(module, name, source.Options(), *system, data_hash="", seed=0, metrics={}))
    return str(path)


def forces_of(model: str, options: holstein.Options, ensemble: Ensemble) -> NeuralForces:
    return neural.build(neural.Options(model=model), holstein.build(options, LATTICE), DOMAIN, ensemble)


def random_q(seed: int = 0, std: float = 2.0) -> torch.Tensor:
    return std * torch.randn(12, 10, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def doped() -> Ensemble:
    return Ensemble("canonical", KT, 0.4)


def scaled(g: float, t: float) -> tuple[holstein.Options, float]:
    """The options, and the unit of energy in that of the model."""
    return dataclasses.replace(OWN, g=g, t=t, k=0.7, kappa=0.1), abs(t / OWN.t)


@each_scale
def test_the_density_is_that_of_the_scaled_field(model: str, g: float, t: float) -> None:
    """``n(Q; t, g, kT, mu) = n_0((g / c g_0) Q; mu / c)`` to 1e-12, and the classical force has its own ``g``."""
    options, c = scaled(g, t)
    ensembles = [Ensemble("grand-canonical", unit * KT, chemical_potential=0.3 * unit) for unit in (c, 1.0)]
    q = random_q()
    here = forces_of(model, options, ensembles[0])(State.at_rest(q))
    there = forces_of(model, OWN, ensembles[1])(State.at_rest(g / (c * OWN.g) * q))
    assert torch.allclose(here.density, there.density, rtol=0, atol=1e-12)
    classical = holstein.build(options, LATTICE).classical_force(DOMAIN.pad(q, 1), 1, DOMAIN)
    assert torch.allclose(here.force, g * there.density[..., None] + classical, rtol=0, atol=1e-11)
    if here.grand_potential is not None:
        assert there.grand_potential is not None
        assert float(here.grand_potential) == pytest.approx(c * float(there.grand_potential), abs=1e-9)


@each_scale
def test_the_chemical_potential_scales_too(g: float, t: float) -> None:
    """Of a canonical state, up to the last linear step for it, and along the response in dynamics, to round-off."""
    options, c = scaled(g, t)
    here, there = (
        forces_of(OWN_MODEL, options, Ensemble("canonical", c * KT, 0.4)),
        forces_of(OWN_MODEL, OWN, doped()),
    )
    q, ratio = random_q(), g / (c * OWN.g)
    first, cold = there(State.at_rest(ratio * q)), here(State.at_rest(q))
    assert torch.allclose(cold.density, first.density, rtol=0, atol=2e-5)
    assert float(cold.chemical_potential) == pytest.approx(c * float(first.chemical_potential), abs=1e-4)
    told = {"filling_slope": first.info["filling_slope"] / c, "mu_drift": 0.0}
    warm = dataclasses.replace(first, chemical_potential=c * first.chemical_potential, info=told)
    moved = q + 0.002 * random_q(1)
    ours = here(State(moved, torch.zeros_like(q), forces=warm))
    theirs = there(State(ratio * moved, torch.zeros_like(q), forces=first))
    assert ours.info["filling_slope"] * c == pytest.approx(theirs.info["filling_slope"], rel=1e-9)
    assert float(ours.chemical_potential) == pytest.approx(c * float(theirs.chemical_potential), abs=1e-9)
    assert torch.allclose(ours.density, theirs.density, rtol=0, atol=1e-9)
    assert ours.info["evaluations"] == theirs.info["evaluations"]


def test_the_range_of_training_is_in_the_units_of_the_model() -> None:
    """What the guard compares is what the network reads."""
    options, c = scaled(-7.0, 2.0)
    forces = forces_of(OWN_MODEL, options, Ensemble("canonical", c * KT))
    state = State.at_rest(random_q())
    state = state.moved(forces=forces(state))
    assert state.forces is not None
    assert forces.field_range == read_card(default_model_path()).field_range
    own = forces_of(OWN_MODEL, OWN, Ensemble("canonical", KT))
    there = State.at_rest(-1.0 * random_q())
    assert torch.allclose(forces.field(state), own.field(there.moved(forces=own(there))), atol=1e-8)


@each_scale
def test_the_packaged_model_errs_there_as_at_its_own_coupling(g: float, t: float) -> None:
    """Against exact diagonalization, which scales in the same way, site by site."""
    options, c = scaled(g, t)
    q, errors = random_q(std=5.0), []
    for one, unit, ratio in ((options, c, 1.0), (OWN, 1.0, g / (c * OWN.g))):
        ensemble, state = Ensemble("grand-canonical", unit * KT, chemical_potential=0.2 * unit), State.at_rest(ratio * q)
        truth = exact.build(exact.Options(), holstein.build(one, LATTICE), DOMAIN, ensemble)(state)
        errors.append(forces_of(OWN_MODEL, one, ensemble)(state).density - truth.density)
    assert torch.allclose(errors[0], errors[1], rtol=0, atol=1e-9)
    assert 1e-5 < float(errors[0].square().mean().sqrt()) < 0.02


def test_a_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    other = ["--set", "hamiltonian.g=3", "--lattice", "12x10", "--steps", "2", "--force", "paper-2601.04104", "--output", "out"]
    assert main(["run", "--preset", "paper-2601.04104", *other]) == 0
    assert "the network, made at another g, reads 0.8571 times the field" in capsys.readouterr().out
    assert main(["show", "default"]) == 0
    assert "any g, k, kappa and filling at t = 1, kT = 0.1, and any common scale" in capsys.readouterr().out


def test_a_network_is_carried_on_to_another_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``train --from`` changes g, kT and filling, and starts below the error of the atomic limit; other shapes are refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    there = ["--set", "hamiltonian.g=3", "--set", "ensemble.kT=0.2", "--set", "ensemble.filling=0.4"]
    assert main(["label", *there, "--lattice", "10x10", "--random", "6", "--output", "data.h5"]) == 0
    training = ["train", "data.h5", *there, "--epochs", "1", "--set", "training.learning_rate=1e-5"]
    assert main([*training, "--from", "default", "--output", "tuned"]) == 0
    assert "g from 3.5 to 3, kT from 0.1 to 0.2, filling from 0.5 to 0.4" in capsys.readouterr().out
    assert main([*training, "--output", "fresh"]) == 1  # random weights learn nothing in one pass at this rate
    assert "the training learned nothing" in capsys.readouterr().err
    tuned = read_card(tmp_path / "tuned" / "model.safetensors")
    assert (tuned.parameters["g"], tuned.kT, tuned.filling) == (3.0, 0.2, 0.4)
    assert (tuned.options["g"], tuned.options["kT"]) == (3.0, 0.2)
    assert tuned.training["from"] == model_hash(default_model_path())
    assert tuned.metrics["validation.all.mse"] < 0.3 * tuned.metrics["baseline_mse"]
    capsys.readouterr()
    assert main([*training, "--from", "default", "--set", "model.copies=2", "--output", "other"]) == 2
    told = capsys.readouterr().err
    assert "copies is 4 in the file and 2 here" in told
    assert "kT is" not in told


@pytest.mark.parametrize("name", [name for name, path in packaged().items() if not read_card(path).options.get("kT_range")])
def test_a_network_of_one_kT_starts_one_that_takes_kT(name: str) -> None:
    """It predicts the same to begin with, whatever its ``kT``."""
    network, card = load_model(packaged()[name])
    lattice = kinds.resolve("lattice", card.lattice).build((4,) * len(card.extent))
    kT = card.options["kT"]
    options = dataclasses.replace(network.options, kT_range=(0.5 * kT, 2 * kT))
    wider = kinds.resolve("model", card.architecture).build(options, lattice).double()
    system = System(lattice, build_hamiltonian(card.hamiltonian, lattice), Ensemble("canonical", kT=2 * card.kT))
    told = warm_start(name, wider, card.architecture, options, system)[1]
    assert "from the weights of" in told[0]
    edges = [2 * network.reach + 4] * len(card.extent)
    numbers = [len(network.elements)] if card.of_matrix else [len(lattice.basis)] if len(lattice.basis) > 1 else []
    field = torch.randn(1, *edges, *numbers, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for temperature in (kT, 2 * kT):
        torch.testing.assert_close(wider(field, temperature), network.double()(field, temperature), rtol=0, atol=1e-14)
