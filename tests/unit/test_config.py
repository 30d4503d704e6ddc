"""Layers, presets and the sentences about what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpc_holstein.config import PRESETS, TRAINING_EXTENT, Config, fit_options, load_config, parse_assignment
from hpc_holstein.config.builders import build_network, build_system, read_state
from hpc_holstein.config.loading import validated
from hpc_holstein.config.same_physics import require_fit
from hpc_holstein.errors import ConfigError, DataError, ModelError
from hpc_holstein.training.dataset import Snapshots

PAPER = "paper-2601.04104"


def from_text(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(f'preset = "{PAPER}"\n{text}')
    return load_config(path, overrides=overrides)


def test_the_preset_is_the_published_setting() -> None:
    config = load_config(preset_name=PAPER)
    assert config.hamiltonian.option_values == {"t": 1.0, "g": 3.5, "k": 1.0, "kappa": 0.18}
    dynamics = config.dynamics
    assert (dynamics.scheme, dynamics.mass, dynamics.gamma, dynamics.dt) == ("verlet-ou", 5.0, 0.2, 0.05)
    assert (dynamics.steps, config.output.snapshot_every) == (25000, 50)
    ensemble = config.ensemble.build()
    assert (ensemble.kind, ensemble.filling, ensemble.kT) == ("canonical", 0.5, 0.1)
    assert config.initial.q_std is not None
    assert math.isclose(config.initial.q_std**2, 5 / 0.18)
    assert math.isclose(config.initial.velocity_std**2, 5 / dynamics.mass)
    assert config.lattice.extent == (200, 200)
    assert config.lattice.periodic == (True, True)
    assert TRAINING_EXTENT[PAPER] == (40, 40)


def test_file_overrides_preset_and_options_override_the_file(tmp_path: Path) -> None:
    text = "[dynamics]\nsteps = 100\ndt = 0.02\n[lattice]\nextent = [8, 10]"
    config = from_text(tmp_path, text, overrides={"dynamics.steps": 7, "parallel.grid": None})
    assert (config.dynamics.steps, config.dynamics.dt, config.dynamics.mass) == (7, 0.02, 5.0)
    assert config.lattice.extent == (8, 10)


def test_a_preset_is_not_changed_by_what_overrides_it(tmp_path: Path) -> None:
    from_text(tmp_path, "[dynamics]\nmass = 1.0", overrides={"lattice.extent": [4, 4]})
    assert PRESETS[PAPER]["dynamics"]["mass"] == 5.0
    assert PRESETS[PAPER]["lattice"]["extent"] == [200, 200]


def test_the_options_of_another_kind_do_not_survive(tmp_path: Path) -> None:
    assert from_text(tmp_path, '[force]\nkind = "exact"').force.option_values == {}
    config = from_text(tmp_path, '[initial]\nfile = "x.h5"')
    assert (config.initial.q_std, config.initial.file, config.initial.velocity_std) == (None, "x.h5", 1.0)


@pytest.mark.parametrize(
    "changes", [{}, {"ensemble.kind": "grand-canonical"}, {"initial.file": "x.h5", "parallel.grid": [2, 1]}]
)
def test_toml_text_gives_the_same_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = load_config(preset_name=PAPER, overrides={**changes, "training.epochs": 3})
    path = tmp_path / "again.toml"
    path.write_text(config.toml())
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dynamics]\nstep = 3", ["'dynamics.step'", "did you mean 'dynamics.steps'?"]),
        ("steps = 3", ["'steps'", "did you mean 'dynamics.steps'?"]),
        ("[dynamic]\nsteps = 3", ["'dynamic'", "did you mean 'dynamics'?"]),
        ("[hamiltonian]\nkapa = 0.1", ["'hamiltonian.kapa'", "did you mean 'hamiltonian.kappa'?"]),
        ("[force]\nmodell = 'x'", ["'force.modell'", "did you mean 'force.model'?"]),
        ("[training]\nepoch = 3", ["'training.epoch'", "did you mean 'training.epochs'?"]),
        (
            "[training]\nlr = 3",
            ["unknown key 'training.lr': did you mean 'training.learning_rate'? Valid keys of [training]: epochs"],
        ),
        ("[model]\ncopy = 3", ["'model.copy'", "did you mean 'model.copies'?"]),
        ("[lattice]\nkind = 'sqare'", ["lattice.kind = 'sqare'", "did you mean 'square'?"]),
        ("[force]\nkind = 'exakt'", ["force.kind = 'exakt'", "did you mean 'exact'?", "atomic, auto, exact"]),
        ("[model]\nkind = 'een'", ["model.kind = 'een'", "did you mean 'enn'?"]),
        ("[dynamics]\nscheme = 'verlet'", ["dynamics.scheme = 'verlet'", "verlet-ou"]),
        ("[dynamics]\nsteps = 'many'", ["dynamics.steps = 'many'", "an integer"]),
        ("[dynamics]\nsteps = 2.5", ["dynamics.steps = 2.5", "an integer"]),
        ("[dynamics]\nsteps = true", ["dynamics.steps = true", "an integer"]),
        ("[dynamics]\ndt = 0", ["dynamics.dt = 0", "greater than 0"]),
        ("[dynamics]\ndt = nan", ["dynamics.dt = nan", "a finite number"]),
        ("[lattice]\nextent = 40", ["lattice.extent = 40", "a list"]),
        ("[lattice]\nextent = [40]", ["lattice extent 40", "square"]),
        ("[lattice]\nextent = [40, 0]", ["lattice.extent[1] = 0", "at least 1"]),
        ("[hamiltonian]\ng = 'x'", ["hamiltonian.g = 'x'", "a number"]),
        ("[ensemble]\nkind = 'micro'", ["ensemble.kind = 'micro'", "'canonical' or 'grand-canonical'"]),
        ("[ensemble]\nchemical_potential = 1.0", ["chemical_potential has no meaning in the canonical ensemble"]),
        ("[initial]\nfile = 'x.h5'\nq_std = 1.0", ["q_std", "not both"]),
        ("[parallel]\ndevice = 'gpu'", ["parallel.device: 'gpu'", "cuda:N"]),
        ("[training]\nepochs = -1", ["epochs = -1"]),
        ("dynamics = 3", ["dynamics = 3", "a section"]),
        ("a = ", ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text("[lattice]\nextent = [4, 4]\n[ensemble]\nkT = 0.1\n")
    with pytest.raises(ConfigError, match=r"dynamics is missing: .*preset"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"CONFIG\.toml or --preset"):
        load_config()
    with pytest.raises(ConfigError, match=r"did you mean 'paper-2601\.04104'"):
        load_config(preset_name="paper-2601")
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "nothing.toml")


def test_assignments_have_the_types_of_toml() -> None:
    assert parse_assignment("a.b=3") == ("a.b", 3)
    assert parse_assignment("a.b = [1, 2]") == ("a.b", [1, 2])
    assert parse_assignment("a.b=canonical") == ("a.b", "canonical")
    with pytest.raises(ConfigError, match="not an assignment"):
        parse_assignment("a.b")
    with pytest.raises(ConfigError, match="given as a value too"):
        load_config(preset_name=PAPER, overrides={"dynamics": 3, "dynamics.steps": 4})


def test_a_network_takes_the_physics_of_the_system() -> None:
    config = load_config(preset_name=PAPER, overrides={"hamiltonian.g": 2.5, "ensemble.kT": 0.2, "model.copies": 1})
    _, options = build_network(config, build_system(config))
    assert (options.g, options.kT, options.copies) == (2.5, 0.2, 1)
    assert fit_options(config).epochs > 0


def said(states: Mapping[str, Any], labels: Mapping[str, Any]) -> Snapshots:
    return Snapshots.of(np.zeros((1, 4, 4)), attributes=states, label_attributes=labels)


ALIKE = {"hamiltonian.g": 3.5, "kT": 0.1, "ensemble": "canonical", "periodic": [True, True]}


@pytest.mark.parametrize(("states", "labels"), [({}, {}), (ALIKE, {}), ({}, ALIKE), (ALIKE, ALIKE), ({"kT": [0.1]}, ALIKE)])
def test_data_of_the_same_system_are_taken(states: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
    """A file that says nothing is taken at its word."""
    require_fit(said(states, labels), Path("x.h5"), build_system(load_config(preset_name=PAPER)))


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"hamiltonian.g": 3.0, "kT": 0.2}, "hamiltonian.g is 3.0 there and 3.5 here, ensemble.kT is 0.2 there and 0.1 here"),
        ({"hamiltonian.g": -3.5}, "give --set hamiltonian.g=-3.5,"),
        ({"kT": 0}, "give --set ensemble.kT=0,"),
        ({"periodic": [False, False]}, "give --set 'lattice.periodic=[false,false]',"),
        ({"ensemble": "grand-canonical", "ensemble.chemical_potential": 0.5}, "--set ensemble.chemical_potential=0.5"),
        ({"ensemble.filling": 0.4}, "ensemble.filling is 0.4 there and 0.5 here"),
        ({"hamiltonian": "holstein", "hamiltonian.t2": 0.5}, "the values of the file cannot be used here either: unknown key"),
        ({"lattice": "hexagonal"}, "lattice.kind = 'hexagonal' is not known"),
        ({"kT": "cold"}, "ensemble.kT is 'cold' there"),
    ],
)
def test_data_of_another_system_are_refused_wherever_they_say_it(where: int, attributes: dict[str, Any], told: str) -> None:
    """On the file or on its labels; the remedy is one that helps."""
    system = build_system(load_config(preset_name=PAPER))
    with pytest.raises(ConfigError) as found:
        require_fit(said(*[{}, attributes][:: 1 if where else -1]), Path("x.h5"), system)
    assert str(found.value).startswith("x.h5 belongs to another system")
    assert told in str(found.value)


def test_a_file_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.h5 contradicts itself: ensemble\.kT is 0\.1 on the file and 1\.0 on its labels"):
        require_fit(said({"kT": 0.1}, {"kT": 1.0}), Path("x.h5"), build_system(load_config(preset_name=PAPER)))


def test_a_remedy_that_would_not_help_is_not_recommended() -> None:
    """Labels with open edges train no network, whatever is set."""

    def usable(system: Any) -> None:
        raise ModelError(f"periodic = {system.lattice.periodic} is not for networks")

    with pytest.raises(ConfigError, match=r"cannot be used here either: periodic = \(False, False\)"):
        require_fit(said({}, {"periodic": [False, False]}), Path("x.h5"), build_system(load_config(preset_name=PAPER)), usable)


def test_a_start_from_a_snapshot_file(tmp_path: Path) -> None:
    q = np.random.default_rng(1).normal(size=(3, 4, 6))
    with h5py.File(tmp_path / "states.h5", "w") as file:
        file["q"] = q
    file_keys = {"initial.file": str(tmp_path / "states.h5"), "lattice.extent": [4, 6]}
    config = load_config(preset_name=PAPER, overrides={**file_keys, "initial.snapshot": 1})
    lattice = build_system(config).lattice
    stored, velocity, _ = read_state(config.initial, lattice)
    assert np.array_equal(stored[..., 0, 0].numpy(), q[1])
    assert velocity is None
    config = load_config(preset_name=PAPER, overrides={**file_keys, "initial.snapshot": 3})
    with pytest.raises(DataError, match=r"snapshot = 3 .*holds 3 snapshots"):
        read_state(config.initial, lattice)
    config = load_config(preset_name=PAPER, overrides={**file_keys, "lattice.extent": [4, 4]})
    with pytest.raises(DataError, match=r"4x6 cells and the lattice has 4x4"):
        read_state(config.initial, build_system(config).lattice)


def test_keys_that_are_missing_bring_no_complaint_of_their_defaults() -> None:
    """A command whose extent comes from a file of states checks the rest before it has that."""
    assert validated({"lattice": {"kind": "chain"}}, partial=True) is None
    with pytest.raises(ConfigError, match=r"lattice\.extent is missing"):
        validated({"lattice": {"kind": "chain"}})
