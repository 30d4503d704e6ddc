"""Densities at further chemical potentials: labelled from one diagonalization, kept in files, learned from."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, DataError
from hpc_holstein.forces import atomic, exact
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.hamiltonian import holstein, peierls
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square
from hpc_holstein.network.models import efnn, enn, enn_matrix
from hpc_holstein.training import dataset, fit
from hpc_holstein.training._fields import with_further
from hpc_holstein.training._judged import LabelledSystem
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import FurtherPotentials, label, label_file, make_file
from hpc_holstein.training.paths import RandomPlan

LATTICE = square.build((4, 6))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("canonical", kT=0.1)
FURTHER = FurtherPotentials(3, 0.8, seed=5)


def make_exact(domain):
    return exact.build(exact.Options(), HAMILTONIAN, domain, ENSEMBLE)


def states(count=2):
    return Snapshots.of(np.random.default_rng(1).normal(0, 2, (count, 4, 6)))


def density_at(q, mu):
    domain = CartesianDomain(LATTICE, SerialTransport())
    fixed = exact.build(exact.Options(), HAMILTONIAN, domain, Ensemble("grand-canonical", 0.1, chemical_potential=float(mu)))
    return fixed(State.at_rest(torch.as_tensor(q)[..., None, None])).density[..., 0].numpy()


def test_they_are_those_of_the_grand_canonical_ensemble():
    found = label(states(), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    offsets = found.more_chemical_potential - found.chemical_potential[:, None]
    assert offsets.shape == (2, 3)
    assert np.abs(offsets).max() <= 0.8
    assert len(np.unique(offsets.round(6))) == 6
    for q, mus, densities in zip(found.q, found.more_chemical_potential, found.more_density, strict=True):
        for mu, density in zip(mus, densities, strict=True):
            assert np.abs(density - density_at(q, mu)).max() <= 1e-12


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind", [holstein, peierls])
def test_ranks_and_shared_states_give_the_same(kind, ranks):
    """Two states: dealt to 2 ranks, shared by 3."""
    hamiltonian = kind.build(kind.Options(), LATTICE)
    q = np.random.default_rng(1).normal(0, 0.2, (2, *LATTICE.extent, 1, hamiltonian.components))

    def labelled(transport):
        make = lambda domain: ExactForces(hamiltonian, domain, ENSEMBLE)  # noqa: E731
        return label(Snapshots.on(LATTICE, q), LATTICE, transport, make, {}, further=FURTHER)

    alone = labelled(SerialTransport())
    assert (alone.more_force is None) is hamiltonian.tells_density
    names = [name for name in (*dataset.LABELS, *dataset.MORE) if getattr(alone, name) is not None]
    for found in run_in_process(ranks, labelled):
        for name in names:
            assert np.abs(getattr(found, name) - getattr(alone, name)).max() <= 1e-12


def test_a_file_holds_them_with_units_and_dimensions(tmp_path):
    plan = RandomPlan(3, 2.0, seed=1)
    made = make_file(
        tmp_path / "a.h5", LATTICE, SerialTransport(), make_exact, {}, {"provider": "exact"}, plan, further=FURTHER
    )
    read = dataset.read(tmp_path / "a.h5")
    assert read.data_hash == made.data_hash != label(made, LATTICE, SerialTransport(), make_exact, {}).data_hash
    assert np.array_equal(read.more_density, made.more_density)
    with h5py.File(tmp_path / "a.h5") as file:
        stored = file["more_density"]
        assert (stored.attrs["units"], stored.attrs["provider"]) == ("electrons/site", "exact")
        assert [axis.label for axis in stored.dims] == ["snapshot", "further", "y", "x"]
    assert np.array_equal(read.select([2, 0]).more_chemical_potential, made.more_chemical_potential[[2, 0]])


def test_an_interrupted_job_continues_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_holstein.training.label._SAVE_EVERY", 1)
    dataset.write(tmp_path / "q.h5", states(3))
    calls = []

    class Ending(ExactForces):
        def at_potentials(self, state, offsets):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().at_potentials(state, offsets)

    def make_ending(domain):
        return Ending(HAMILTONIAN, domain, ENSEMBLE)

    whole = label(states(3), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    job = tmp_path / "q.h5", tmp_path / "a.h5", LATTICE, SerialTransport(), make_ending, {}
    with pytest.raises(KeyboardInterrupt):
        label_file(*job, further=FURTHER)
    with pytest.raises(DataError, match="other states or settings"):
        label_file(*job, further=FurtherPotentials(3, 0.7, seed=5))
    assert np.array_equal(label_file(*job, further=FURTHER).more_density, whole.more_density)
    assert len(calls) == 4


def test_other_forces_are_refused():
    def make_atomic(domain):
        return atomic.build(atomic.Options(), HAMILTONIAN, domain, ENSEMBLE)

    with pytest.raises(ConfigError, match="3 further chemical potentials come with exact forces only"):
        label(states(), LATTICE, SerialTransport(), make_atomic, {}, further=FURTHER)


def test_networks_of_the_shifted_field_see_each_as_a_snapshot_of_its_own():
    found = label(states(), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    rows, source = with_further(found, enn.build(enn.Options(), LATTICE), HAMILTONIAN)
    assert source.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    assert np.array_equal(rows.q, found.q[source])
    for row, i in enumerate(source):
        assert np.abs(rows.density[row] - density_at(found.q[i], rows.chemical_potential[row])).max() <= 1e-12
    same, source = with_further(found, efnn.build(efnn.Options(), LATTICE), HAMILTONIAN)  # of the plain field
    assert same is found
    assert source.tolist() == [0, 1]


def test_training_sees_those_of_its_own_snapshots_only():
    """A network that is trained on few electrons at half filling learns from them what more electrons do."""
    lattice = square.build((6, 6))
    hamiltonian = holstein.build(holstein.Options(), lattice)

    def make(domain):
        return exact.build(exact.Options(), hamiltonian, domain, ENSEMBLE)

    raw = Snapshots.of(np.random.default_rng(2).normal(0, 1, (8, 6, 6)))
    further = FurtherPotentials(2, 3.0, seed=1)
    labelled = label(raw, lattice, SerialTransport(), make, {}, further=further)
    options = fit.FitOptions(epochs=1, batch=2, validation=0.25, test=0.25, dtype="float64")
    model = enn.build(enn.Options(copies=1, radii=(1, 1), levels=2), lattice)
    system = LabelledSystem(labelled, hamiltonian, ENSEMBLE, {})
    training = fit._Training(model, [system], options, SerialTransport())
    own = training.main.sets["training"].tolist()
    assert training.training_rows.tolist() == own + [8 + 2 * i + k for i in own for k in (0, 1)]
    assert training._steps_per_epoch == 6  # 4 snapshots, each at 3 potentials, in pairs


def test_files_of_one_training_may_have_them_or_not(tmp_path):
    """As in rounds of learning, whose own labels have none."""
    made = label(states(), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    plain = label(states(), LATTICE, SerialTransport(), make_exact, {})
    for name, snapshots in (("a", made), ("b", made), ("c", plain)):
        attributes = {"kT": 0.1, "hamiltonian.g": 3.5}
        dataset.write(
            tmp_path / f"{name}.h5",
            Snapshots.of(
                snapshots.q, attributes=attributes, **{n: getattr(snapshots, n) for n in (*dataset.LABELS, *dataset.MORE)}
            ),
        )
    both = dataset.read_together([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert both.more_density.shape == (4, 3, 4, 6)
    assert dataset.read_together([tmp_path / "c.h5", tmp_path / "c.h5"]).more_density is None
    mixed = dataset.read_together([tmp_path / "c.h5", tmp_path / "a.h5"])
    rows, source = with_further(mixed, enn.build(enn.Options(), LATTICE), HAMILTONIAN)
    assert source.tolist() == [0, 1, 2, 3, 2, 2, 2, 3, 3, 3]
    assert np.isfinite(rows.density).all()
    assert np.array_equal(rows.density[4:], made.more_density.reshape(-1, 4, 6))
    assert np.array_equal(rows.chemical_potential[4:], made.more_chemical_potential.ravel())


def test_damage_is_found(tmp_path):
    made = label(states(), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    made.more_density[1, 2, 3, 4] = np.nan
    dataset.write(tmp_path / "a.h5", made)
    with pytest.raises(DataError, match=r"more_density of .* is nan in snapshot 1 at site \(y, x\) = \(3, 4\)"):
        dataset.read(tmp_path / "a.h5")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["label", "--lattice", "4x6", "--random", "3", "--output", "a.h5"]
    assert main([*command, "--more-mu", "0", "--mu-width", "0.5"]) == 2
    assert "--mu-width 0.5 has no meaning without --more-mu" in capsys.readouterr().err
    assert main([*command, "--more-mu", "2", "--mu-width", "-1"]) == 2
    assert main([*command, "--more-mu", "2", "--mu-width", "0.5"]) == 0
    found = dataset.read("a.h5")
    assert found.more_density.shape == (3, 2, 4, 6)
    assert np.abs(found.more_chemical_potential - found.chemical_potential[:, None]).max() <= 0.5
    assert found.label_attributes["further.width"] == 0.5


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ([], 3),
        (["--force", "auto"], 3),
        (["--more-mu", "0"], 0),
        (["--force", "atomic"], 0),
        (["--set", "ensemble.kind=grand-canonical"], 0),
    ],
)
def test_exact_labels_of_a_canonical_ensemble_have_them_unasked(tmp_path, monkeypatch, more, number):
    monkeypatch.chdir(tmp_path)
    assert main(["label", "--lattice", "4x6", "--random", "2", "--output", "a.h5", *more]) == 0
    found = dataset.read("a.h5")
    assert (0 if found.more_density is None else found.more_density.shape[1]) == number


def test_forces_come_with_them_where_the_density_does_not_tell_them(tmp_path):
    """Of the Peierls model, against exact forces in the grand-canonical ensemble; of the Holstein model from the density."""
    model = peierls.build(peierls.Options(), LATTICE)
    q = 0.1 * torch.randn(2, *LATTICE.extent, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    made = label(
        Snapshots.on(LATTICE, q.numpy()),
        LATTICE,
        SerialTransport(),
        lambda d: ExactForces(model, d, ENSEMBLE),
        {},
        further=FURTHER,
    )
    assert made.more_force.shape == (2, 3, *LATTICE.extent, 2)
    domain = CartesianDomain(LATTICE, SerialTransport())
    for i, mus in enumerate(made.more_chemical_potential):
        for mu, density, force in zip(mus, made.more_density[i], made.more_force[i], strict=True):
            there = ExactForces(model, domain, Ensemble("grand-canonical", ENSEMBLE.kT, chemical_potential=mu))(
                State.at_rest(q[i])
            )
            np.testing.assert_allclose(density, there.density[..., 0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(force, there.force[..., 0, :], rtol=0, atol=1e-11)
    dataset.write(tmp_path / "made.h5", made)
    with h5py.File(tmp_path / "made.h5") as file:
        assert [axis.label for axis in file["more_force"].dims] == ["snapshot", "further", "y", "x", "component"]
    network = enn_matrix.build(enn_matrix.Options(), LATTICE)
    rows, source = with_further(dataset.read(tmp_path / "made.h5"), network, model)
    assert source.tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    assert np.array_equal(rows.force[2:], made.more_force.reshape(-1, *LATTICE.extent, 2))

    found = label(states(), LATTICE, SerialTransport(), make_exact, {}, further=FURTHER)
    assert found.more_force is None
    rows, _ = with_further(found, network, HAMILTONIAN)
    first = Ensemble("grand-canonical", ENSEMBLE.kT, chemical_potential=float(found.more_chemical_potential[0, 0]))
    there = ExactForces(HAMILTONIAN, domain, first)(State.at_rest(torch.as_tensor(found.q[0])[..., None, None]))
    np.testing.assert_allclose(rows.force[len(found)], there.force[..., 0, 0], rtol=0, atol=1e-11)
