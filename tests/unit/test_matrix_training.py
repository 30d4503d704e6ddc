"""Training of networks that read the matrix elements of ``H``: forces of windows, losses, and the commands end to end."""

from pathlib import Path

import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ModelError
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import displaced, holstein, peierls
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import honeycomb, square, triangular
from hpc_holstein.network.checkpoint import describe, load_model
from hpc_holstein.network.models import enn_matrix
from hpc_holstein.network.served import check_card, valid_for
from hpc_holstein.training._matrix_fields import MatrixData
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.label import label

ENSEMBLE = Ensemble("grand-canonical", kT=0.2, chemical_potential=0.1)
SMALL = ["--set", "model.copies=1", "--set", "model.radii=[1,0]", "--set", "model.levels=2", "--set", "model.kind=enn_matrix"]
PEIERLS = ["--preset", "paper-2510.20659", "--lattice", "10x10", "--set", "ensemble.kT=0.5", "--threads", "1"]


def labelled(lattice, hamiltonian, std=0.1):
    shape = (3, *lattice.extent, len(lattice.basis), hamiltonian.components)
    q = std * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    make = lambda domain: ExactForces(hamiltonian, domain, ENSEMBLE)  # noqa: E731
    return label(Snapshots.on(lattice, q.numpy()), lattice, SerialTransport(), make, {})


@pytest.mark.parametrize(
    ("lattice", "kind"),
    [
        (square.build((10, 12)), peierls),
        (square.build((10, 12)), holstein),
        (triangular.build((10, 12)), peierls),
        (honeycomb.build((9, 8)), peierls),
    ],
    ids=["square-peierls", "square-holstein", "triangular-peierls", "honeycomb-peierls"],
)
def test_errors_of_windows_are_those_of_the_provider(lattice, kind):
    """The force of a window is that of a run at the chemical potential of the labels, and its gradients reach the weights."""
    hamiltonian = kind.build(kind.Options(), lattice)
    snapshots = labelled(lattice, hamiltonian)
    torch.manual_seed(0)
    options = enn_matrix.Options(copies=2, radii=(1, 0), levels=3, kT=0.2 / hamiltonian.hopping)
    network = enn_matrix.build(options, lattice).double()
    data = MatrixData(snapshots, network, hamiltonian, torch.float64, torch.device("cpu"))
    provider = NeuralForces(network, hamiltonian, CartesianDomain(lattice, SerialTransport()), ENSEMBLE)
    q = snapshots.fields()
    wanted = provider(State.at_rest(q)).force - torch.as_tensor(snapshots.force).reshape(q.shape)
    every = torch.arange(3)
    whole = data.whole_errors(network, every)
    torch.testing.assert_close(whole.detach(), wanted, rtol=0, atol=1e-11)
    part = data.errors(network, every[:2], torch.tensor([[2, 7], [9, 3]]), (4, 5))
    rows, columns = (torch.tensor([first]) + torch.arange(count) for first, count in ((2, 4), (7, 5)))
    inside = wanted[0][rows.remainder(lattice.extent[0])][:, columns.remainder(lattice.extent[1])]
    torch.testing.assert_close(part[0].detach(), inside, rtol=0, atol=1e-11)
    loss = data.loss(network, every, torch.zeros(3, 2, dtype=torch.int64), lattice.extent)
    square_of_force = whole.square().flatten(1).mean(dim=1).sum()
    density = data.electron_errors(network, every).square().flatten(1).mean(dim=1).sum()
    assert (data.density_weight > 0) is (kind is peierls)
    torch.testing.assert_close(loss, square_of_force + data.density_weight * density)
    (loss + data.canonical_loss(network, every)).backward()
    assert all(weights.grad is not None and torch.isfinite(weights.grad).all() for weights in network.parameters())


def test_the_electronic_force_is_kept_apart():
    """The targets are those of the electrons: a snapshot with the springs of another model has the same."""
    lattice = square.build((8, 8))
    networks = enn_matrix.build(enn_matrix.Options(copies=1, radii=(1, 0)), lattice).double()
    targets = []
    for k0 in (30.0, 50.0):
        hamiltonian = peierls.build(peierls.Options(k0=k0), lattice)
        data = MatrixData(labelled(lattice, hamiltonian), networks, hamiltonian, torch.float64, torch.device("cpu"))
        targets.append(data.targets)
    torch.testing.assert_close(*targets, rtol=0, atol=1e-10)


def test_commands_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """label, train, show, run and validate of the Peierls model; a run on its own model file is better than no training."""
    data, model = tmp_path / "data.h5", tmp_path / "model"
    assert main(["label", *PEIERLS, "--random", "12", "--output", str(data), "--more-mu", "1"]) == 0
    budget = ["--epochs", "60", "--set", "training.average=0.9"]
    assert main(["train", str(data), *PEIERLS[:2], *PEIERLS[4:], *SMALL, *budget, "--output", str(model)]) == 0
    module, card = load_model(model / "model.safetensors", square.build((10, 10)))
    assert card.ranges["H/t of shell 2"] == pytest.approx((-0.2, -0.2))
    assert card.metrics["validation.all.mse"] < 0.3 * card.metrics["baseline_mse"]
    assert module.options.kT == pytest.approx(0.2)
    capsys.readouterr()
    assert main(["show", str(model / "model.safetensors")]) == 0
    assert "valid for    any Hamiltonian of this lattice with H/t of shell 1 from" in capsys.readouterr().out
    run = [*PEIERLS, "--force", str(model / "model.safetensors"), "--steps", "6", "--output", str(tmp_path / "run")]
    assert main(["run", *run]) == 0
    told = capsys.readouterr().out
    assert "largest part of the sites outside of the training range" in told
    assert main(["validate", "--run", str(tmp_path / "run"), "--reference", "exact", "--threads", "1"]) == 0
    refused = ["run", *PEIERLS, "--set", "hamiltonian.t2=0.0", "--force", str(model / "model.safetensors"), "--output", "no"]
    assert main([*refused, "--steps", "2"]) == 2
    assert "H/t of shell 2 is 0 here and was -0.2 to -0.2 in training" in capsys.readouterr().err


class Both(peierls.Peierls):
    """Displacements that change the hopping and, beside, the level of their site: of systems that each do one, this is none."""

    def matrix(self, ghosted_q, halo):
        entries = super().matrix(ghosted_q, halo).clone()
        entries[..., 0] += displaced(ghosted_q, halo, (0, 0))[..., 0, 0]
        return entries


def test_one_training_for_two_hamiltonians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Of other extents, kT/t and fillings: each is judged apart, and the one file serves both and refuses what neither was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    holstein_model = ["--preset", "paper-2601.04104", "--set", "ensemble.kT=0.4"]
    assert main(["label", *PEIERLS, "--random", "6", "--output", "p.h5", "--more-mu", "1"]) == 0
    for filling in ("0.4", "0.5"):
        states = ["--random", "3", "--filling", filling, "--lattice", "12x10", "--seed", filling[-1]]
        assert main(["label", *holstein_model, *states, "--output", f"h{filling}.h5"]) == 0
    wider = [*PEIERLS[:2], "--lattice", "12x10", *PEIERLS[4:], "--random", "4", "--output", "w.h5", "--more-mu", "0"]
    assert main(["label", *wider]) == 0
    files, model = ["p.h5", "h0.4.h5", "h0.5.h5", "w.h5"], "joint/model.safetensors"
    how = ["--epochs", "30", "--set", "training.average=0.9", "--set", "training.learning_rate=0.01"]
    assert main(["train", *files, *PEIERLS[:2], *PEIERLS[4:], *SMALL, *how, "--output", "joint"]) == 0
    told = capsys.readouterr().out
    assert "validation set\n" in told
    assert "validation set of square lattice, periodic, holstein t = 1, g = 3.5" in told
    card = load_model(model)[1]
    assert card.hamiltonians == ["peierls", "holstein"]
    assert [sorted(of["kT/t"]) for of in card.known] == [pytest.approx([0.2, 0.2]), pytest.approx([0.4, 0.4])]
    assert "ranges" not in describe(card)
    assert card.options["kT_range"] == pytest.approx((0.2, 0.4))
    assert card.ranges["kT/t"] == pytest.approx((0.2, 0.4))
    assert card.ranges["filling"] == pytest.approx((0.4, 0.5))
    assert card.ranges["H/t of shell 2"] == pytest.approx((-0.2, 0.0))
    assert card.metrics["holstein 12x10.validation.all.mse"] > 0
    assert "peierls, alpha = 4" in describe(card)
    assert "; holstein, g = 3.5" in describe(card)
    for system in (PEIERLS, [*holstein_model, "--lattice", "12x12"]):
        name = system[1]
        assert main(["run", *system, "--force", model, "--steps", "2", "--threads", "1", "--output", name]) == 0
    assert "was trained" not in capsys.readouterr().out
    cold = [*holstein_model[:2], "--set", "ensemble.kT=0.1", "--lattice", "12x12", "--force", model, "--output", "cold"]
    assert main(["run", *cold]) == 2
    assert "kT/t is 0.1 here and was 0.4 with such elements" in capsys.readouterr().err
    between = [*PEIERLS, "--set", "ensemble.kT=0.75", "--force", model, "--output", "between"]  # that of the other system alone
    assert main(["run", *between]) == 2
    assert "kT/t is 0.3 here and was 0.2 with such elements" in capsys.readouterr().err
    lattice = square.build((12, 12))
    with pytest.raises(ModelError, match="H/t on sites moves with the coordinates here and was 0 in training"):
        check_card(card, Both(lattice, peierls.Options()), Ensemble("canonical", kT=0.5), lattice)
    assert "= -0.2, H/t on sites = 0, kT/t = 0.2; or with H/t" in valid_for(card)
    assert main(["train", *files, *PEIERLS[:2], *PEIERLS[4:], "--model", "enn", "--output", "no"]) == 2
    assert "give files of one extent" in capsys.readouterr().err
