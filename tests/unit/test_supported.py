"""Which networks serve which systems: window, edges, sublattices; the same sentence in every command that works or learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conformance.cases import build_lattice

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ModelError
from hpc_holstein.forces import exact, neural
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein, peierls
from hpc_holstein.interfaces import Bond, Ensemble, State, System
from hpc_holstein.lattice import square, triangular
from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.network import packaged
from hpc_holstein.network.models import enn, enn_energy
from hpc_holstein.network.supported import require_supported, require_window
from hpc_holstein.symmetry.internal import is_bipartite

PRESET = ["--preset", "paper-2601.04104"]
ENSEMBLE = Ensemble("canonical", kT=0.1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command prints; it leaves with code 2 and nothing behind."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main([*arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return message


def bonds(*offsets: tuple[int, ...]) -> list[Bond]:
    return [Bond(0, 0, offset) for offset in offsets]


HONEYCOMB = [Bond(0, 1, offset) for offset in ((0, 0), (-1, 0), (0, -1))]
KAGOME = [Bond(a, b, offset) for a, b in ((0, 1), (1, 2), (2, 0)) for offset in ((0, 0), (1, 0))]


@pytest.mark.parametrize(
    ("joined", "answer"),
    [
        (bonds((0, 1), (1, 0)), True),
        (bonds((1, 0, 0), (0, 1, 0), (0, 0, 1)), True),
        (HONEYCOMB, True),
        (bonds((1,), (3,)), True),
        (bonds((2,)), True),  # two chains, each of them with two sublattices
        ([], True),
        (bonds((0, 1), (1, 0), (1, -1)), False),
        (bonds((0, 1), (1, 0), (1, 1)), False),
        (bonds((1,), (2,)), False),
        (bonds((2,), (3,)), False),  # the shortest odd walk has five steps
        (KAGOME, False),
    ],
)
def test_bipartite(joined: list[Bond], answer: bool) -> None:
    assert is_bipartite(joined) is answer


def make_forces(lattice: BravaisLattice) -> NeuralForces:
    hamiltonian = holstein.build(holstein.Options(), lattice)
    return neural.build(neural.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), ENSEMBLE)


@pytest.mark.parametrize("extent", [(2, 2), (1, 8), (8, 8), (8, 40), (40, 4)])
def test_a_lattice_smaller_than_the_window_is_refused(extent: tuple[int, int]) -> None:
    shown = "x".join(map(str, extent))
    with pytest.raises(ModelError, match=f"a lattice of {shown} cells is smaller than the window .* at least 9x9 cells"):
        make_forces(square.build(extent))


def test_the_smallest_lattice_is_served() -> None:
    """The largest error of 9x9, the smallest one, is that of hot states on any lattice; of 4x4 it was 0.9."""
    lattice = square.build((9, 9))
    state = State.at_rest(2 * torch.randn(9, 9, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    truth = exact.build(exact.Options(), hamiltonian, CartesianDomain(lattice, SerialTransport()), ENSEMBLE)(state)
    assert float((make_forces(lattice)(state).force - truth.force).square().mean()) < 1e-3
    require_window(4, (9, 9))


COMMANDS = {
    "run": ["run", *PRESET, "--lattice", "8x12", "--steps", "2", "--output", "out"],
    "label": ["label", "--input", "own.h5", "--force", "neural", "--output", "out.h5"],
    "label --force": ["label", "--lattice", "8x12", "--random", "2", "--force", "neural", "--output", "out.h5"],
    "label --path-force": ["label", "--lattice", "8x12", "--quenches", "2", "--path-force", "neural", "--output", "out.h5"],
    "train": ["train", "labelled.h5", "--epochs", "1", "--output", "out"],
    "train enn_energy": ["train", "labelled.h5", "--model", "enn_energy", "--epochs", "1", "--output", "out"],
    "validate": ["validate", "--input", "own.h5", "--output", "out"],
    "validate --reference": ["validate", "--input", "own.h5", "--force", "exact", "--reference", "neural", "--output", "out"],
    "learn": ["learn", "learn.toml", "--output", "out"],
    "bench": ["bench", "strong", "--lattice", "8x12", "--output", "out"],
}


@pytest.fixture
def files(here: Path) -> None:
    """States of 8x12 cells with labels, and what `learn` needs."""
    with h5py.File("own.h5", "w") as file:
        file["q"] = np.random.default_rng(0).normal(0, 2, (3, 8, 12))
    assert main(["label", "--input", "own.h5", "--force", "atomic", "--output", "labelled.h5"]) == 0
    limits = '[trust]\nmax_outside = 0.1\naction = "collect"\n[learn]\ndata = "labelled.h5"\n'
    Path("learn.toml").write_text(f'preset = "paper-2601.04104"\n{limits}')


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_such_a_lattice(files: None, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Before any work, in the same sentence."""
    assert "a lattice of 8x12 cells is smaller than the window of the network" in refused(capsys, *COMMANDS[command])


def test_open_edges_train_no_network(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as they are nor by the setting that the labels would need."""
    opened = ["--set", "lattice.periodic=[false,false]"]
    made = ["label", "--random", "3", "--lattice", "12x12", "--force", "atomic", *opened, "--output", "open.h5"]
    assert main(made) == 0
    told = refused(capsys, "train", "open.h5", "--epochs", "1", "--output", "out")
    assert "lattice.periodic is [False, False] there and [True, True] here" in told
    assert "has open edges, which networks neither see nor learn" in told
    assert "--set" not in told
    assert "has open edges" in refused(capsys, "train", "open.h5", *opened, "--epochs", "1", "--output", "out")


def test_the_density_of_a_triangular_lattice_is_not_odd() -> None:
    """What a network with particle-hole symmetry built in cannot say: n(-Q, -mu) differs from 1 - n(Q, mu)."""
    hamiltonian = holstein.build(holstein.Options(), triangular.build((10, 10)))
    domain = CartesianDomain(hamiltonian.lattice, SerialTransport())
    provider = exact.build(exact.Options(), hamiltonian, domain, Ensemble("grand-canonical", kT=0.1))
    q = torch.randn(10, 10, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n, other = (provider(State.at_rest(sign * q)).density for sign in (1, -1))
    assert float((n + other - 1).square().mean().sqrt()) > 0.05


def test_networks_of_a_triangular_lattice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels of another lattice than that of the command are refused, and a network without built-in exchange learns."""
    on, train = ["--set", "lattice.kind=triangular"], ["train", "data.h5"]
    made = ["label", "--random", "8", "--lattice", "12x12", "--force", "exact"]
    assert main([*made, *on, "--output", "data.h5"]) == 0
    told = refused(capsys, *train, "--output", "out")
    assert "lattice.kind is 'triangular' there and 'square' here; give --set lattice.kind=triangular, or another file" in told
    small = ["--set", "model.widths=[4]", "--set", "model.radius_squared=1", "--set", "training.learning_rate=0.02"]
    few = ["--set", "model.copies=1", "--set", "model.radii=[1,1]", "--set", "model.levels=2"]
    for model, options, epochs in (("efnn", small, "40"), ("enn", few, "60")):
        assert main([*train, "--epochs", epochs, "--model", model, *options, *on, "--output", model]) == 0
        judged = ["validate", "--input", "data.h5", "--force", f"{model}/model.safetensors", "--reference", "labels"]
        assert main([*judged, *on, "--output", f"validation-{model}"]) == 0


def test_networks_with_particle_hole_symmetry_need_two_sublattices() -> None:
    """The exchange is built in for hopping to nearest neighbours, and a Hamiltonian may have more."""
    lattice = square.build((12, 12))
    further = holstein.build(holstein.Options(), lattice)
    further.pattern += lattice.bonds(2)
    for source in (enn, enn_energy):
        module = source.build(source.Options(), lattice)
        with pytest.raises(ModelError, match=r"particle-hole symmetry built in.*on the square lattice joins sites of one"):
            require_supported(module, further, lattice, ENSEMBLE)


@pytest.mark.parametrize("name", ["chain", "cubic", "honeycomb", "triangular"])
def test_networks_are_for_the_lattice_that_they_are_made_for(name: str) -> None:
    lattice = build_lattice(name, 12)
    module = enn.build(enn.Options(), square.build((12, 12)))
    with pytest.raises(ModelError, match=f"made for the square lattice, not for the {name} lattice"):
        require_supported(module, holstein.build(holstein.Options(), lattice), lattice, ENSEMBLE)


def test_networks_are_for_coordinates_that_shift_levels() -> None:
    lattice = square.build((12, 12))
    module = enn.build(enn.Options(), lattice)
    with pytest.raises(ModelError, match="the peierls Hamiltonian has others"):
        require_supported(module, peierls.build(peierls.Options(), lattice), lattice, ENSEMBLE)


def test_a_network_of_another_lattice_is_refused_from_python() -> None:
    """Where a module comes without a card."""
    lattice = triangular.build((12, 12))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    module, domain = enn.build(enn.Options(), square.build((12, 12))), CartesianDomain(lattice, SerialTransport())
    with pytest.raises(ModelError, match="made for the square lattice"):
        NeuralForces(module, hamiltonian, domain, dataclasses.replace(ENSEMBLE, filling=0.4))


def test_a_hamiltonian_that_no_network_reads_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peierls = ["run", "--preset", "paper-2510.20659", "--lattice", "12x12", "--steps", "2", "--force"]
    message = refused(capsys, *peierls, "paper-2601.04104")
    assert "the network reads one coordinate a site" in message
    assert "has others: use a network that reads the matrix elements of H, such as enn_matrix" in message


def test_default_is_the_model_that_fits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the models that come with the package, by lattice and Hamiltonian; where none fits, the sentence names them."""
    square_model = packaged.packaged()["paper-2601.04104"]
    lattice = square.build((12, 12))
    hamiltonian = holstein.build(holstein.Options(), lattice)
    system = System(lattice, hamiltonian, ENSEMBLE)
    assert packaged.model_path("default", system) == packaged.model_path("default") == square_model
    assert packaged.model_path("paper-2601.04104") == square_model
    assert packaged.model_path("other.safetensors") == Path("other.safetensors")
    for g, kT, filling in (
        (2.0, 0.1, 0.5),
        (3.5, 0.1, 0.4),
        (3.5, 0.2, 0.5),
    ):  # of another setting
        other = System(lattice, holstein.build(holstein.Options(g=g), lattice), Ensemble("canonical", kT=kT, filling=filling))
        assert packaged.model_path("default", other) == packaged.packaged()["holstein-square"]
    same = System(lattice, holstein.build(holstein.Options(t=2.0, g=-7.0), lattice), Ensemble("canonical", kT=0.2))
    assert packaged.model_path("default", same) == square_model
    cold = System(lattice, hamiltonian, Ensemble("canonical", kT=1e-3))
    with pytest.raises(ModelError, match="kT"):
        packaged.model_path("default", cold)
    on_kagome = ["run", "--preset", "paper-2510.20659", "--set", "lattice.kind=kagome", "--lattice", "12x12", "--steps", "2"]
    message = refused(capsys, *on_kagome, "--force", "default")
    assert "none of the models that come with the package serves the peierls Hamiltonian on the kagome lattice" in message
    assert "paper-2601.04104 (holstein, square lattice)" in message
    assert main(["show", "--list"]) == 0
    assert "paper-2601.04104: holstein, square lattice, enn, force MSE" in capsys.readouterr().out
