"""From a preset, a TOML file and the command line to a checked :class:`Config`; each layer overrides the one before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hpc_holstein.config import kinds
from hpc_holstein.config.messages import sentence, unknown_key
from hpc_holstein.config.presets import PRESETS, preset
from hpc_holstein.config.schema import Config, KindSection
from hpc_holstein.dynamics.langevin import SCHEMES
from hpc_holstein.errors import ConfigError
from hpc_holstein.training.fit_options import FitOptions

FOLDERS = {
    "lattice": "hpc_holstein.lattice",
    "hamiltonian": "hpc_holstein.hamiltonian",
    "force": "hpc_holstein.forces",
    "model": "hpc_holstein.network.models",
}
"""Section -> folder whose public files are its kinds."""

_WITH_OPTIONS = ("hamiltonian", "force", "model")
_TRAINING_KEYS = [name for name in kinds.option_names(FitOptions) if name not in ("device", "threads")]  # are of [parallel]

Layer = dict[str, Any]


def load_config(path: Path | None = None, preset_name: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Merge preset, file and ``overrides`` (full key -> value, ``None`` = not given), then check everything.

    ``preset_name`` (command line) stands before the ``preset`` key of the file.  Raises :class:`ConfigError`.
    """
    layer = read_toml(path) if path is not None else {}
    name = preset_name or layer.get("preset")
    if name is None and path is None:
        raise ConfigError(f"nothing says what to run: give a CONFIG.toml or --preset {next(iter(PRESETS))}")
    merged: Layer = {}
    if name is not None:
        kinds.require_choice("preset", str(name), PRESETS)
        merged = preset(str(name))
    merged = merge(merged, layer)
    merged = merge(merged, nested({key: value for key, value in (overrides or {}).items() if value is not None}))
    return check(merged | ({"preset": name} if name is not None else {}))


def config_of_text(text: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration that :meth:`Config.toml` wrote, with some keys changed."""
    return check(merge(tomllib.loads(text), nested(overrides or {})))


def read_toml(path: Path) -> Layer:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist: check the path, or use --preset") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read ({error}): give a TOML text file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``section.key=value`` of ``--set``: the value as TOML, or a bare word as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text} is not an assignment: write --set section.key=value, for instance dynamics.dt=0.02")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def nested(flat: Mapping[str, Any]) -> Layer:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    layer: Layer = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        table = layer
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key} = {value!r} cannot be set: {section} is given as a value too, keep one of the two")
        table[last] = value
    return layer


def merge(below: Layer, above: Layer) -> Layer:
    """``above`` overrides ``below`` key by key; options of another kind, and a random start under a file, do not survive."""
    merged = dict(below)
    for name, value in above.items():
        lower = below.get(name)
        if not (isinstance(value, dict) and isinstance(lower, dict)):
            merged[name] = value
            continue
        if name in _WITH_OPTIONS and value.get("kind", lower.get("kind")) != lower.get("kind"):
            lower = {}
        if name == "initial" and "file" in value:
            lower = {key: kept for key, kept in lower.items() if key != "q_std"}
        if name == "initial" and "q_std" in value:
            lower = {key: kept for key, kept in lower.items() if key not in ("file", "snapshot")}
        merged[name] = lower | value
    return merged


def check(layer: Layer) -> Config:
    """Validate merged tables: pydantic for the sections, then the kinds and the options of each."""
    for section in _WITH_OPTIONS:
        table, default = layer.get(section), _default_kind(section)
        if isinstance(table, dict) and default is not None:
            layer = layer | {section: {"kind": default} | table}
    try:
        config = Config.model_validate_json(json.dumps(layer, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(sentence(error, valid=valid_keys(layer))) from None
    kinds.require_choice("dynamics.scheme", config.dynamics.scheme, SCHEMES)
    lattice = kinds.resolve(FOLDERS["lattice"], config.lattice.kind, "lattice.kind")
    lattice.build(config.lattice.extent, config.lattice.periodic)  # raises where the two do not fit
    for section in _WITH_OPTIONS:
        section_options(section, getattr(config, section), valid_keys(layer))
    fit_options(config, valid_keys(layer))
    return config


def fit_options(config: Config, valid: Iterable[str] = ()) -> FitOptions:
    """How to train: the keys of ``[training]``, with device and threads of ``[parallel]``."""
    for key in config.training:
        if key not in _TRAINING_KEYS:
            raise ConfigError(unknown_key(f"training.{key}", [*valid]))
    options: FitOptions = kinds.parse_options(FitOptions, config.training, "training")
    return replace(options, threads=config.parallel.threads or options.threads)


def section_options(section: str, chosen: KindSection, valid: Iterable[str] = ()) -> Any:
    """The ``Options`` instance of a section with a kind; unknown keys name the nearest one of the whole configuration."""
    module = kinds.resolve(FOLDERS[section], chosen.kind, f"{section}.kind")
    names = kinds.option_names(module.Options)
    for key in chosen.option_values:
        if key not in names:
            raise ConfigError(unknown_key(f"{section}.{key}", [*valid]))
    return kinds.parse_options(module.Options, chosen.option_values, section)


def valid_keys(layer: Layer) -> list[str]:
    """Every key that a configuration with the kinds of ``layer`` may hold."""
    keys: list[str] = []
    for name, field in Config.model_fields.items():
        keys.append(name)
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        keys += [f"{name}.{key}" for key in model.model_fields]
        table = layer.get(name, {})
        chosen = table.get("kind", _default_kind(name)) if isinstance(table, dict) else None
        if model is KindSection and chosen in kinds.available(FOLDERS[name]):
            module = kinds.resolve(FOLDERS[name], chosen, f"{name}.kind")
            keys += [f"{name}.{key}" for key in kinds.option_names(module.Options)]
    return keys + [f"training.{key}" for key in _TRAINING_KEYS]


def _default_kind(section: str) -> str | None:
    default = Config.model_fields[section].default
    return default.kind if isinstance(default, KindSection) else None
