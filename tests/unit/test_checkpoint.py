"""Model files: what is written comes back, and whatever does not fit is named in one sentence."""

import dataclasses
import json
import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from hpc_holstein.errors import ModelError
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.network import checkpoint, models, packaged, served

STAND_IN = """
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Options:
    channels: int = 3
    radii: tuple[int, ...] = (1, 1)

class Net(torch.nn.Module):
    field, predicts = "shifted", "density"

    def __init__(self, options):
        super().__init__()
        assert isinstance(options.radii, tuple)
        self.reach = sum(options.radii)
        self.first = torch.nn.Conv2d(1, options.channels, 2 * options.radii[0] + 1)
        self.last = torch.nn.Conv2d(options.channels, 1, 2 * options.radii[1] + 1)

    def forward(self, x):
        return torch.sigmoid(self.last(torch.tanh(self.first(x[:, None]))))[:, 0]

def build(options, lattice):
    return Net(options)
"""

LATTICE = square.build((8, 6))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("canonical", kT=0.1)


@pytest.fixture
def standin(tmp_path, monkeypatch):
    folder = tmp_path / "architectures"
    folder.mkdir()
    (folder / "standin.py").write_text(STAND_IN)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    yield __import__("hpc_holstein.network.models.standin", fromlist=["build"])
    sys.modules.pop("hpc_holstein.network.models.standin", None)


@pytest.fixture
def saved(standin, tmp_path):
    torch.manual_seed(0)
    options = standin.Options(channels=4)
    module = standin.build(options, LATTICE)
    card = checkpoint.make_card(
        module, "standin", options, HAMILTONIAN, LATTICE, ENSEMBLE, data_hash="ab12", seed=7, metrics={"force MSE": 1e-3}
    )
    path = tmp_path / "folder" / "model.safetensors"
    checkpoint.save_model(path, module, card)
    return path, module, card


def rewrite(path, **changes):
    """The same weights under a changed card."""
    module, card = checkpoint.load_model(path)
    text = json.dumps({**dataclasses.asdict(card), **changes})
    save_file(module.state_dict(), path, metadata={"card": text})


def one_sentence(error):
    text = str(error.value)
    return "\n" not in text and ". " not in text and ": " in text  # what is wrong: the remedy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(saved, standin, tmp_path, dtype):
    _, module, card = saved
    module = module.to(dtype)
    card = dataclasses.replace(card, dtype=str(dtype)[6:])
    path = tmp_path / "again.safetensors"
    checkpoint.save_model(path, module, card)
    back, back_card = checkpoint.load_model(path, square.build((5, 5)))
    assert back_card == card
    assert checkpoint.read_card(path) == card
    assert not back.training
    field = torch.randn(2, 9, 10, dtype=dtype)
    assert torch.equal(back(field), module(field))


def test_card_states_the_facts(saved):
    _, _, card = saved
    assert (card.reach, card.field, card.predicts) == (2, "shifted", "density")
    assert card.parameters == {"t": 1.0, "g": 3.5, "k": 1.0, "kappa": 0.18}
    assert card.group == LATTICE.point_group.matrices
    assert card.versions["torch"] == torch.__version__
    text = checkpoint.describe(card)
    for word in ("standin", "channels 4", "shifted", "kappa = 0.18", "kT = 0.1", "force MSE 0.001", "ab12", "8x6", "order 8"):
        assert word in text


def test_no_silent_overwrite_and_no_leftovers(saved):
    path, module, card = saved
    before = checkpoint.model_hash(path)
    with pytest.raises(ModelError, match="exists already"):
        checkpoint.save_model(path, module, card)
    assert checkpoint.model_hash(path) == before
    checkpoint.save_model(path, module, dataclasses.replace(card, seed=8), overwrite=True)
    assert checkpoint.read_card(path).seed == 8
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_unwritable_folder(saved, tmp_path):
    _, module, card = saved
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written") as error:
        checkpoint.save_model(tmp_path / "file" / "model.safetensors", module, card)
    assert one_sentence(error)


def test_damaged_files(saved, tmp_path):
    path, _, _ = saved
    whole = path.read_bytes()
    with pytest.raises(ModelError, match="does not exist"):
        checkpoint.load_model(tmp_path / "none.safetensors")
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[:4], b"", b"PK\x03\x04 not a model" * 40):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="truncated") as error:
            checkpoint.load_model(path)
        assert str(path) in str(error.value)


def test_weights_without_card_or_not_finite(saved):
    path, module, card = saved
    save_file(module.state_dict(), path)
    with pytest.raises(ModelError, match="no card"):
        checkpoint.load_model(path)
    with torch.no_grad():
        module.first.weight[0, 0, 0, 0] = torch.nan
    checkpoint.save_model(path, module, card, overwrite=True)
    with pytest.raises(ModelError, match=r"first\.weight .* not finite"):
        checkpoint.load_model(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema": 99}, "schema version 99, this package reads versions 1 to 2"),
        ({"novelty": 1}, "novelty"),
        ({"architecture": "unheard"}, "'unheard' .* valid are .*enn"),
        ({"options": {"channels": 5}}, r"first\.weight"),
        ({"options": {"width": 5}}, "width"),
        ({"reach": 9}, "reach is 9 on the card .* but 2"),
        ({"group": [[[1, 0], [0, 1]]]}, "point group"),
        ({"dtype": "float7"}, "float7"),
        ({"schema": True}, "schema version True"),
        ({"schema": "2"}, "schema version '2'"),
        ({"schema": [2]}, r"schema version \[2\]"),
        ({"architecture": 3}, "architecture = 3"),
        ({"architecture": "_levels"}, "'_levels' .* valid are .*enn"),
        ({"lattice": "gyroid"}, "lattice 'gyroid' .* valid are .*square"),
        ({"lattice": "square.build"}, "lattice 'square.build'"),
        ({"lattice": None}, "lattice = None"),
        ({"extent": "8x6"}, "extent = '8x6'"),
        ({"extent": [0, 6]}, "extent.0 = 0"),
        ({"extent": [8.0, 6.0]}, "extent.0 = 8.0"),
        ({"extent": [2**40, 6]}, "extent.0 = 1099511627776"),
        ({"extent": [8, 6, 4]}, "extent = .* gives no lattice"),
        ({"group": "D4"}, "group = 'D4'"),
        ({"group": [[[1, 0], [0, 1]], 7]}, "group.1 = 7"),
        ({"reach": -1}, "reach = -1"),
        ({"reach": "2"}, "reach = '2'"),
        ({"field": "sideways"}, "field = 'sideways'"),
        ({"parameters": [1, 2]}, r"parameters = \[1, 2\]"),
        ({"parameters": {"g": "3.5"}}, "parameters.g = '3.5'"),
        ({"parameters": {"g": float("nan")}}, "parameters.g = nan"),
        ({"filling": 1.5}, "filling = 1.5"),
        ({"kT": -0.1}, "kT = -0.1"),
        ({"kT": float("inf")}, "kT = inf"),
        ({"ensemble": "micro"}, "ensemble = 'micro'"),
        ({"metrics": {"force MSE": "small"}}, "metrics.force MSE = 'small'"),
        ({"versions": {"torch": 2.6}}, "versions.torch = 2.6"),
        ({"ranges": {"kT": [0.2, 0.1]}}, "a range ends before it begins"),
        ({"ranges": {"kT": [0.1]}}, "ranges.kT"),
        ({"surroundings": {"seen": 3}}, "surroundings are no cells"),
        ({"field_range": {"field.min": 0.0}}, "field_range has no"),
        ({"options": {"channels": "4"}}, "channels = '4'"),
        ({"options": {"channels": 4.5}}, "channels = 4.5"),
        ({"options": {"radii": 1}}, "radii = 1"),
        ({"options": []}, r"options = \[\]"),
    ],
)
def test_card_that_does_not_fit(saved, changes, told):
    path, _, _ = saved
    rewrite(path, **changes)
    with pytest.raises(ModelError, match=told) as error:
        checkpoint.load_model(path)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{", "[" * 100_000, '{"schema": 1' + "0" * 5000 + "}", '{"schema": 2, "schema": 1}']
)
def test_card_that_is_no_card(saved, text):
    path, module, _ = saved
    save_file(module.state_dict(), path, metadata={"card": text})
    with pytest.raises(ModelError, match=r"the card in .* cannot be read") as error:
        checkpoint.load_model(path)
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("enn", {"copies": 10**9}),
        ("enn", {"levels": 10**9}),
        ("enn", {"radii": [10**5, 0]}),
        ("enn_energy", {"copies": 10**400}),
        ("efnn", {"radius_squared": 1e12}),
        ("efnn", {"widths": [10**9, 10**9]}),
    ],
)
def test_options_of_more_weights_than_the_file_has_are_refused_before_the_network_is_built(
    saved, architecture, options, monkeypatch
):
    """Weights and memory would be counted in terabytes."""
    path, _, _ = saved
    source = __import__(f"hpc_holstein.network.models.{architecture}", fromlist=["build"])
    monkeypatch.setattr(source, "build", lambda *_: pytest.fail("built"))
    rewrite(path, architecture=architecture, options=options)
    with pytest.raises(ModelError, match=r"they give .* weights or more, and the file has") as error:
        checkpoint.load_model(path)
    assert one_sentence(error)


def test_a_model_that_does_not_fit_into_memory_is_refused(saved, monkeypatch):
    path, _, _ = saved
    monkeypatch.setattr(checkpoint, "free_bytes", lambda: 100.0)
    with pytest.raises(ModelError, match="more than can be read here") as error:
        checkpoint.load_model(path)
    assert one_sentence(error)


def test_weights_of_whole_numbers_are_refused(saved):
    path, module, card = saved
    tensors = {name: value.to(torch.int8) for name, value in module.state_dict().items()}
    save_file(tensors, path, metadata={"card": json.dumps(dataclasses.asdict(card))})
    with pytest.raises(ModelError, match="do not fit architecture"):
        checkpoint.load_model(path)


def test_other_lattice_kind(saved):
    path, _, _ = saved
    chain = dataclasses.replace(LATTICE, name="chain")
    with pytest.raises(ModelError, match="made for the square lattice, not for the chain"):
        checkpoint.load_model(path, chain)


def test_check_card_names_every_difference(saved):
    _, _, card = saved
    served.check_card(card, HAMILTONIAN, ENSEMBLE, LATTICE)
    other = holstein.build(holstein.Options(g=3.0, t=0.5), LATTICE)
    with pytest.raises(ModelError) as error:
        served.check_card(card, other, Ensemble("canonical", kT=0.2), dataclasses.replace(LATTICE, name="triangular"))
    for told in (
        "kT/t is 0.1 in the model and 0.4 in this run",
        "lattice is square in the model and triangular",
    ):
        assert told in str(error.value)
    assert "kappa" not in str(error.value)
    assert "g is" not in str(error.value)  # any is served
    assert one_sentence(error)
    with pytest.raises(ModelError, match=r"kT is 0\.1 in the model and 0\.2 in this run"):
        served.check_card(card, HAMILTONIAN, Ensemble("canonical", kT=0.2), LATTICE)
    published = dataclasses.replace(card, predicts="force", field="plain")
    with pytest.raises(ModelError, match=r"t is 1\.0 in the model and 0\.5 in this run, g is 3\.5 in the model and 3\.0"):
        served.check_card(published, other, ENSEMBLE, LATTICE)


@pytest.mark.parametrize(
    ("g", "scale", "t"), [(3.0, 1.0, 1.0), (-3.5, 1.0, 1.0), (3.5, 2.0, 2.0), (10.0, 0.5, 0.5), (3.5, 1.0, -1.0)]
)
def test_every_coupling_and_every_common_scale_is_accepted(saved, g, scale, t):
    _, _, card = saved
    served.check_card(card, holstein.build(holstein.Options(g=g, t=t), LATTICE), Ensemble("canonical", kT=0.1 * scale), LATTICE)


def test_classical_parameters_matter_to_a_force_model_only(saved):
    _, _, card = saved
    softer = holstein.build(holstein.Options(k=0.5, kappa=0.1), LATTICE)
    doped = Ensemble("canonical", kT=0.1, filling=0.4)
    served.check_card(card, softer, doped, LATTICE)
    whole = dataclasses.replace(card, predicts="force", field="plain")
    served.check_card(whole, HAMILTONIAN, ENSEMBLE, LATTICE)
    with pytest.raises(ModelError) as error:
        served.check_card(whole, softer, doped, LATTICE)
    assert re.search(r"filling .* k is 1\.0 in the model and 0\.5 .* kappa is", str(error.value))


def test_default_model_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(packaged.resources, "files", lambda package: tmp_path)
    with pytest.raises(ModelError, match="reinstall the package"):
        packaged.default_model_path()
    assert not packaged.is_model("exact")  # which needs none
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "paper-2601.04104.safetensors").write_bytes(b"")
    assert packaged.default_model_path().parent == tmp_path / "data"


def test_hash_is_that_of_the_file(saved, tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checkpoint.model_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.model_hash(tmp_path / "none")
