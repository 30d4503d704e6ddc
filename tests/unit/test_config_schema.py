"""The configuration as data: a schema that editors read, a meaning for every key, text that round-trips."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from hpc_holstein.config import PRESETS, config_of_text, kinds, load_config
from hpc_holstein.config.schema import Config, file_schema

ROOT = Path(__file__).parents[2]
PAPER = "paper-2601.04104"
VALIDATOR = Draft202012Validator(file_schema())
STORED = """
preset = "paper-2601.04104"

[lattice]
kind = "square"
extent = [6, 4]
periodic = [true, true]

[hamiltonian]
kind = "holstein"
t = 1.0
g = 3.5
k = 1.0
kappa = 0.18

[ensemble]
kind = "canonical"
kT = 0.1
filling = 0.5

[dynamics]
scheme = "verlet-ou"
mass = 5.0
gamma = 0.2
dt = 0.05
steps = 4
seed = 0

[initial]
q_std = 5.270462766947299
velocity_std = 1.0

[force]
kind = "kpm"
tolerance = 0.001

[output]
folder = "run"
snapshot_every = 50
observables_every = 10
checkpoint_every = 0
checkpoint_minutes = 10.0
checkpoints_kept = 2
writer = "auto"
compression = 1
locking = "auto"

[health]
max_electron_drift = 0.0001

[parallel]
replicas = 1
transport = "mpi"
gpu_buffers = "auto"
dtype = "mixed"
deterministic = false
device = "auto"

[model]
kind = "enn"
"""
"""As version 0.1.0 wrote it into trajectories and checkpoints."""


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/**/*.toml")), ids=lambda path: path.name)
def test_the_schema_takes_the_examples(path: Path) -> None:
    VALIDATOR.validate(tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_schema_takes_presets_and_what_is_stored(preset: str) -> None:
    VALIDATOR.validate(PRESETS[preset])
    VALIDATOR.validate(tomllib.loads(load_config(preset_name=preset).toml()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dynamics": {"step": 3}},
        {"dynamics": {"dt": -1}},
        {"dynamics": {"scheme": "euler"}},
        {"force": {"kind": "exakt"}},
        {"force": {"kind": "kpm", "model": "default"}},
        {"lattice": {"extent": 40}},
        {"training": {"epoch": 3}},
        {"dynamic": {}},
    ],
)
def test_the_schema_refuses_what_the_command_line_refuses(wrong: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(wrong)


def sections() -> list[type[BaseModel]]:
    """All sections, those with a kind once for each."""
    plain = [field.annotation for field in Config.model_fields.values() if field.annotation is not kinds.KindSection]
    of_kinds = [kinds.section_of(name, kind) for name in ("hamiltonian", "force", "model") for kind in kinds.available(name)]
    return [Config, *of_kinds, *(one for one in plain if isinstance(one, type) and issubclass(one, BaseModel))]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_key_says_what_it_means(section: type[BaseModel]) -> None:
    assert [name for name, field in section.model_fields.items() if not field.description] == []


def test_text_of_earlier_versions_is_read() -> None:
    config = config_of_text(STORED)
    assert (
        config.toml()
        == load_config(
            preset_name=PAPER,
            overrides={"lattice.extent": [6, 4], "dynamics.steps": 4, "force.kind": "kpm", "force.tolerance": 1e-3},
        ).toml()
    )


@pytest.mark.parametrize("name", ["q\U0001d4e0", "\U0010ffff", "a\nb", 'a"b', "a\\b", "a\x7fb\x01", "ä", "'", "x\u2028y"])
def test_any_text_survives_in_a_stored_configuration(name: str) -> None:
    config = load_config(preset_name=PAPER, overrides={"output.folder": name})
    assert config_of_text(config.toml()) == config
