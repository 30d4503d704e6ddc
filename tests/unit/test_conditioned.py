"""Networks for a range of kT and g: the input, the data of several files, the card, the commands."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from commands import execute
from conformance.cases import load, moved, wrapped
from safetensors.torch import save_file

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, DataError, ModelError
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network import checkpoint, models, served
from hpc_holstein.training import dataset
from hpc_holstein.training._fields import FieldData
from hpc_holstein.training.dataset import Snapshots

CELLS = 10
LATTICE = square.build((CELLS, CELLS))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
RANGE = (0.05, 0.2)
each_model = pytest.mark.parametrize("name", ["enn", "enn_energy"])


def network(name="enn", **changes):
    """Weights away from where training starts, so that kT does something."""
    torch.manual_seed(0)
    module = load(models, name)
    built = module.build(module.Options(copies=2, levels=3, kT_range=RANGE, **changes), LATTICE)
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return built.double().eval()


def sample(seed=3):
    return torch.randn(1, CELLS, CELLS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def density(module, x, kT=None):
    with torch.no_grad():
        return module(wrapped(x, module.reach), kT)


def system(g=3.5, kT=0.1):
    return holstein.build(holstein.Options(g=g), LATTICE), Ensemble("canonical", kT)


def snapshots(kT, g, seed, count=4):
    rng = np.random.default_rng(seed)
    q, n = rng.normal(0, 3, (count, CELLS, CELLS)), rng.uniform(size=(count, CELLS, CELLS))
    attributes = dataset.physics_attributes(LATTICE, *system(g, kT))
    return Snapshots.of(
        q,
        quench=np.arange(count) // 2,
        force=g * (n - 0.5) - q,
        density=n,
        chemical_potential=rng.uniform(-1, 1, count),
        attributes=attributes,
    )


def written(folder, *settings):
    paths = []
    for seed, (kT, g) in enumerate(settings):
        paths.append(folder / f"{kT}-{g}-{seed}.h5")
        dataset.write(paths[-1], snapshots(kT, g, seed))
    return paths


@each_model
@pytest.mark.parametrize("kT", [0.05, 0.13, 0.2])
def test_symmetry_at_every_temperature(name, kT):
    module, x = network(name), sample()
    plain = density(module, x, kT)
    for matrix in LATTICE.point_group.matrices:
        torch.testing.assert_close(density(module, moved(x, matrix, 1), kT), moved(plain, matrix, 1), rtol=0, atol=1e-11)
    torch.testing.assert_close(density(module, -x, kT), 1 - plain, rtol=0, atol=1e-11)


@each_model
def test_temperature_is_an_input(name):
    """The one of ``at`` and the one of the call are the same, kernels follow it, and it changes more than the occupation."""
    module, x = network(name), sample()
    cold, warm = density(module, x, 0.06), density(module, x, 0.19)
    assert float((cold - warm).abs().max()) > 1e-3
    module.at(3.5, 0.06)
    torch.testing.assert_close(density(module, x), cold, rtol=0, atol=0)
    module.at(3.5, 0.19)
    torch.testing.assert_close(density(module, x), warm, rtol=0, atol=0)
    torch.testing.assert_close(module(wrapped(x, module.reach), 0.06).detach(), cold, rtol=0, atol=1e-13)
    with torch.no_grad():
        for modulation in module.modulations:
            modulation.weight.zero_()
    assert float((density(module, x, 0.06) - cold).abs().max()) > 1e-4


def test_modulation_is_what_it_says():
    """The folded kernels against scales and shifts on the features, at the output of the layer."""
    module = network(radii=(1, 1))
    kT, u = 0.08, module._position(0.08)
    assert u == pytest.approx(2 * np.log(0.08 / 0.05) / np.log(4) - 1)
    plain, by = module.layers[1], module.modulations[1]
    even, odd, shift = by(u)
    folded = module._kernels(kT)[1]
    field = torch.randn(1, 16, 5, 5, dtype=torch.float64)
    kernels = plain.kernels()
    for got, kernel, scale, bias, own in (
        (folded.even, kernels[0], even, plain.channel_bias(), folded.bias),
        (folded.odd, kernels[1], odd, None, None),
    ):
        expected = torch.nn.functional.conv2d(field, kernel, bias) * scale.repeat_interleave(8).view(-1, 1, 1)
        if bias is not None:
            expected = expected + shift.repeat_interleave(8).view(-1, 1, 1)
        torch.testing.assert_close(torch.nn.functional.conv2d(field, got, own), expected, rtol=0, atol=1e-12)


@each_model
def test_coupling_enters_through_the_energy_alone(name):
    """``n`` is a function of ``g Q'``: at another g the same density in a field scaled the other way."""
    module, x = network(name), sample()
    here = density(module, x)
    module.at(2.8, 0.1)
    torch.testing.assert_close(density(module, x * 3.5 / 2.8), here, rtol=0, atol=1e-12)


def test_forces_take_the_parameters_of_the_run():
    module = network()
    q = 2 * torch.randn(CELLS, CELLS, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    domain = CartesianDomain(LATTICE, SerialTransport())
    hamiltonian = holstein.build(holstein.Options(g=3.0), LATTICE)
    result = NeuralForces(module, hamiltonian, domain, Ensemble("grand-canonical", 0.07))(State.at_rest(q))
    module.at(3.0, 0.07)
    torch.testing.assert_close(result.density[None, ..., 0], density(module, q[None, ..., 0, 0]), rtol=0, atol=1e-13)
    forces = NeuralForces(module, hamiltonian, domain, Ensemble("canonical", 0.07))
    warm = forces(State(q=q + 1e-4, velocity=q, forces=forces(State.at_rest(q))))
    assert float(warm.density.mean()) == pytest.approx(0.5, abs=1e-10)


@pytest.mark.parametrize("kT_range", [(0.1,), (0.2, 0.1), (0.0, 0.1), (0.15, 0.2)])
def test_ranges_that_are_none_are_refused(kT_range):
    enn = load(models, "enn")
    with pytest.raises(ConfigError, match="range"):
        enn.build(enn.Options(kT_range=kT_range), LATTICE)


def test_files_are_read_together(tmp_path):
    paths = written(tmp_path, (0.05, 3.0), (0.2, 3.5), (0.1, 4.0))
    together = dataset.read_together(paths)
    assert together.kT.tolist() == [0.05] * 4 + [0.2] * 4 + [0.1] * 4
    assert together.g.tolist() == [3.0] * 4 + [3.5] * 4 + [4.0] * 4
    assert together.quench.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert together.attributes["hamiltonian"] == "holstein"
    assert not {"kT", "hamiltonian.g"} & set(together.attributes)
    chosen = together.select([4, 0])
    assert chosen.kT.tolist() == [0.2, 0.05]
    assert chosen.data_hash != dataclasses.replace(chosen, kT=np.array([0.05, 0.05])).data_hash
    alone = dataset.read_together(paths[:1])
    assert alone.kT is None
    assert alone.data_hash == dataset.read(paths[0]).data_hash


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    first, second = written(tmp_path, (0.05, 3.0), (0.2, 3.5))
    silent = dataclasses.replace(snapshots(0.1, 3.5, 5), attributes={})
    dataset.write(tmp_path / "silent.h5", silent)
    with pytest.raises(DataError, match="does not say its kT"):
        dataset.read_together([first, tmp_path / "silent.h5"])
    other = snapshots(0.1, 3.5, 6)
    part = {name: getattr(other, name)[:, :4] for name in ("q", "force", "density")}
    attributes = {**other.attributes, "extent": [4, CELLS]}
    dataset.write(tmp_path / "small.h5", dataclasses.replace(other, **part, attributes=attributes))
    with pytest.raises(DataError, match="4x10 cells"):
        dataset.read_together([second, tmp_path / "small.h5"])


@each_model
def test_errors_are_those_of_each_setting(name, tmp_path):
    """A batch of mixed kT and g: each snapshot as if alone, at its own kT, field ``Q + mu/g`` and scale."""
    together = dataset.read_together(written(tmp_path, (0.05, 3.0), (0.2, 3.5), (0.1, 4.0)))
    module = network(name)
    data = FieldData(together, module, 3.5, torch.float64, torch.device("cpu"))
    index = torch.tensor([9, 0, 5, 2, 11])
    with torch.no_grad():
        errors = data.whole_errors(module, index)
    for row, i in enumerate(index.tolist()):
        g, kT = float(together.g[i]), float(together.kT[i])
        x = torch.from_numpy(together.q[i] + together.chemical_potential[i] / g)[None]
        module.at(g, kT)
        expected = g * (density(module, x)[0] - torch.from_numpy(together.density[i]))
        module.at(3.5, 0.1)
        torch.testing.assert_close(errors[row], expected, rtol=0, atol=1e-11)
    atomic = 1 / (
        1
        + np.exp(
            -(together.g[:, None, None] * together.q + together.chemical_potential[:, None, None]) / together.kT[:, None, None]
        )
    )
    expected = np.mean((together.g[:, None, None] * (atomic - together.density)) ** 2)
    assert data.baseline(0.1, torch.arange(12)) == pytest.approx(expected)


def test_a_model_of_one_kT_refuses_data_of_several(tmp_path):
    together = dataset.read_together(written(tmp_path, (0.05, 3.0), (0.2, 3.5)))
    enn, efnn = load(models, "enn"), load(models, "efnn")
    with pytest.raises(DataError, match=r"kT from 0\.05 to 0\.2"):
        FieldData(together, enn.build(enn.Options(), LATTICE), 3.5, torch.float32, torch.device("cpu"))
    with pytest.raises(DataError, match="one coupling"):
        FieldData(together, efnn.build(efnn.Options(), LATTICE), 3.5, torch.float32, torch.device("cpu"))
    with pytest.raises(DataError, match="several kT"):
        FieldData(snapshots(0.1, 3.5, 0), network(), 3.5, torch.float32, torch.device("cpu"))


def card_of(module, **changes):
    ranges = {"kT": RANGE, "g": (3.0, 4.0)}
    options = module.options
    card = checkpoint.make_card(
        module, "enn", options, *system()[:1], LATTICE, system()[1], data_hash="", seed=0, metrics={}, ranges=ranges
    )
    return dataclasses.replace(card, **changes)


def test_card_accepts_its_range_and_refuses_what_is_outside():
    card = card_of(network())
    for g, kT in ((3.0, 0.05), (4.5, 0.2), (-3.3, 0.1)):
        served.check_card(card, *system(g, kT), LATTICE)
    with pytest.raises(ModelError, match=r"kT is 0\.05 to 0\.2 in the model and 0\.3 in this run; give"):
        served.check_card(card, *system(3.5, 0.3), LATTICE)
    served.check_card(dataclasses.replace(card, ranges={}), *system(3.3, 0.1), LATTICE)
    with pytest.raises(ModelError, match=r"kT is 0\.1 in the model and 0\.2 in this run"):
        served.check_card(dataclasses.replace(card, ranges={}), *system(3.5, 0.2), LATTICE)
    assert "any g, k, kappa and filling at t = 1, kT from 0.05 to 0.2, and any" in checkpoint.describe(card)


def test_model_file_keeps_range_and_numbers(tmp_path):
    module, x = network(), sample()
    checkpoint.save_model(tmp_path / "m.safetensors", module, card_of(module))
    back, card = checkpoint.load_model(tmp_path / "m.safetensors")
    assert card.ranges == {"kT": RANGE, "g": (3.0, 4.0)}
    back.at(3.2, 0.15)
    module.at(3.2, 0.15)
    assert torch.equal(density(back, x), density(module, x))


def test_a_file_of_the_first_schema_stands_for_its_values_alone(tmp_path):
    enn = load(models, "enn")
    module = enn.build(enn.Options(copies=1), LATTICE)
    card = dataclasses.asdict(card_of(module, ranges={}))
    for name in ("ranges", "field_range"):
        del card[name]
    card["schema"] = 1
    del card["options"]["kT_range"]
    save_file(module.state_dict(), tmp_path / "old.safetensors", metadata={"card": json.dumps(card)})
    back, told = checkpoint.load_model(tmp_path / "old.safetensors")
    assert told.ranges == {}
    assert torch.equal(density(back.double(), sample()), density(module.double(), sample()))


def test_one_training_for_two_temperatures_and_couplings(tmp_path, monkeypatch):
    """``label`` twice, ``train`` once, ``run`` at a setting between; outside of the range it is refused."""
    monkeypatch.chdir(tmp_path)
    one = SerialTransport()
    for i, (kT, g) in enumerate(((0.08, 3.2), (0.2, 3.6))):
        physics = ["--set", f"ensemble.kT={kT}", "--set", f"hamiltonian.g={g}"]
        execute(one, "label", *physics, "--random", 3, "--lattice", "10x10", "--seed", i, "--output", f"{i}.h5")
    small = ["--set", "model.copies=1", "--set", "model.levels=2", "--set", "training.validation=0.4"]
    execute(one, "train", "0.h5", "1.h5", "--epochs", 2, *small, "--output", "model")
    card = checkpoint.read_card(tmp_path / "model" / "model.safetensors")
    assert card.ranges == {"kT": (0.08, 0.2), "g": (3.2, 3.6)}
    assert card.options["kT_range"] == (0.08, 0.2)
    run = ["run", "--force", "model/model.safetensors", "--preset", "paper-2601.04104", "--lattice", "10x10", "--steps", 2]
    between = ["--set", "ensemble.kT=0.12", "--set", "hamiltonian.g=3.3"]
    execute(one, *run, *between, "--output", "run")
    with pytest.raises(ModelError, match=r"kT is 0\.08 to 0\.2 in the model and 0\.3 in this run"):
        execute(one, *run, "--set", "ensemble.kT=0.3", "--output", "other")
    with pytest.raises(ConfigError, match="efnn knows one"):
        execute(one, "train", "0.h5", "1.h5", "--model", "efnn", "--epochs", 1, "--output", "none")
    with pytest.raises(ConfigError, match="leaves data"):
        execute(one, "train", "0.h5", "1.h5", "--set", "model.kT_range=[0.09, 0.3]", "--epochs", 1, "--output", "none")
    with pytest.raises(ConfigError, match="belongs to another system"):
        execute(one, "train", "0.h5", "1.h5", "--set", "hamiltonian.t=2.0", "--epochs", 1, "--output", "none")
    with pytest.raises(ConfigError, match="at most one"):
        execute(one, "train", "0.h5", "a.toml", "b.toml", "--output", "none")
