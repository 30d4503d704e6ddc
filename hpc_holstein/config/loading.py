"""From a preset, a TOML file and the command line to a checked :class:`Config`; each layer overrides the one before."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hpc_holstein.config import kinds
from hpc_holstein.config.folders import WITH_OPTIONS
from hpc_holstein.config.messages import complaints, sentence, shown
from hpc_holstein.config.presets import PRESETS, preset
from hpc_holstein.config.schema import Config
from hpc_holstein.errors import ConfigError, shortened
from hpc_holstein.files import read_text
from hpc_holstein.training.fit_options import FitOptions

_OF_ENSEMBLES = ("filling", "chemical_potential")
_DEEPEST = 16  # tables and lists inside each other; a configuration has 3
_INTEGERS = range(-(2**63), 2**64)  # 64 bits, as TOML says; some seeds are unsigned

_REMOVED = {"force.distribute": "each rank holds the whole matrix and the ranks share the poles: leave it out"}
"""Keys of earlier versions, and what there is instead: stored configurations may hold them, others are told."""

Layer = dict[str, Any]


def load_config(path: Path | None = None, preset_name: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Merge preset, file and ``overrides`` (full key -> value, ``None`` = not given), then check everything.

    ``preset_name`` (command line) stands before the ``preset`` key of the file.  Raises :class:`ConfigError`.
    """
    return check(merged(path, preset_name, overrides))


def merged(path: Path | None, preset_name: str | None, overrides: Mapping[str, Any] | None) -> Layer:
    """The layers of :func:`load_config`, not checked."""
    layer = read_toml(path) if path is not None else {}
    name = preset_name or layer.get("preset")
    if name is None and path is None:
        raise ConfigError(f"nothing says what to run: give a CONFIG.toml or --preset {next(iter(PRESETS))}")
    below: Layer = {}
    if name is not None:
        kinds.require_choice("preset", str(name), PRESETS)
        below = preset(str(name))
    below = merge(below, layer)
    below = merge(below, nested({key: value for key, value in (overrides or {}).items() if value is not None}))
    return below | ({"preset": name} if name is not None else {})


def config_of_text(text: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration that :meth:`Config.toml` wrote, with some keys changed."""
    stored = tomllib.loads(text)
    for name in _REMOVED:
        section, _, key = name.partition(".")
        stored.get(section, {}).pop(key, None)
    return check(merge(stored, nested(overrides or {})))


def read_toml(path: Path) -> Layer:
    """The tables of a TOML file; ConfigError for one that is not there, or is none."""
    text = read_text(path, f"configuration file {path}", ConfigError)
    try:
        return _tables(text)
    except ValueError as error:
        raise ConfigError(f"configuration file {path} is not valid TOML: {error}") from None


def _tables(text: str) -> Layer:
    """The tables of TOML text; ValueError for all that is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise ValueError("tables and lists are nested too deeply") from None
    except ValueError:  # of Python, which converts no such text
        raise ValueError("an integer has thousands of digits") from None


def parse_assignment(text: str) -> tuple[str, Any]:
    """``section.key=value`` of ``--set``: the value as TOML, or a bare word as a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text} is not an assignment: write --set section.key=value, for instance dynamics.dt=0.02")
    return name.strip(), parse_value(value)


def parse_value(text: str) -> Any:
    """A value as TOML, or a bare word as a string."""
    try:
        tables = _tables(f"value = {text.strip()}")
    except ValueError:
        return text.strip()
    return tables["value"] if len(tables) == 1 else text.strip()


def nested(flat: Mapping[str, Any]) -> Layer:
    """``{"a.b": 1}`` -> ``{"a": {"b": 1}}``."""
    layer: Layer = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        if not all((*sections, last)):
            raise ConfigError(f"'{shortened(name)}' is no key: give section.key, for instance dynamics.dt")
        table = layer
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{name} = {value!r} cannot be set: {section} is given as a value too, keep one of the two")
        table[last] = value
    return layer


def merge(below: Layer, above: Layer) -> Layer:
    """``above`` overrides ``below`` key by key; what is of another kind, and a random start under a file, do not survive."""
    both = dict(below)
    for name, value in above.items():
        lower = below.get(name)
        if not (isinstance(value, dict) and isinstance(lower, dict)):
            both[name] = value
            continue
        if name in WITH_OPTIONS and value.get("kind", lower.get("kind")) != lower.get("kind"):
            lower = {}
        if name == "ensemble" and value.get("kind", lower.get("kind")) != lower.get("kind"):
            lower = {key: kept for key, kept in lower.items() if key not in _OF_ENSEMBLES}
        if name == "initial" and "file" in value:
            lower = {key: kept for key, kept in lower.items() if key != "q_std"}
        if name == "initial" and "q_std" in value:
            lower = {key: kept for key, kept in lower.items() if key not in ("file", "snapshot")}
        both[name] = lower | value
    return both


def check(layer: Layer) -> Config:
    """Validate merged tables: pydantic for the sections, then the lattice and the options of each kind."""
    config = validated(layer)
    assert config is not None
    lattice = kinds.resolve("lattice", config.lattice.kind)
    lattice.build(config.lattice.extent, config.lattice.periodic)  # raises where the two do not fit
    for name in (*WITH_OPTIONS, "training"):
        try:
            _ = getattr(config, name).options
        except ConfigError as error:  # what the dataclass says of values that do not go together
            raise ConfigError(f"[{name}] {error}") from None
    return config


def validated(layer: Layer, partial: bool = False) -> Config | None:
    """The configuration of merged tables; with ``partial``, None if keys are missing and those that are there are right."""
    _require_plain(layer)
    for name, instead in _REMOVED.items():
        section, _, key = name.partition(".")
        if isinstance(table := layer.get(section), dict) and key in table:
            raise ConfigError(f"{name} is a key of earlier versions, {instead}")
    try:
        return Config.model_validate_json(json.dumps(layer, default=str), strict=True)
    except ValidationError as error:
        found = complaints(error, partial)
        if found:
            raise ConfigError(sentence(found[0], keys_of(layer))) from None
        return None


def _require_plain(layer: Layer) -> None:
    """Raise ConfigError for what no key takes and some library would not survive."""
    for name, value in _leaves(layer):
        if isinstance(value, int) and value not in _INTEGERS:
            raise ConfigError(f"{name} = {shown(value)} has more than the 64 bits of an integer of TOML: give a smaller number")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{name} = {value!a} is not UTF-8 text: choose another name") from None
            if "\0" in value:
                raise ConfigError(f"{name} = {value!a} holds a zero character, which no name can: remove it")


def _leaves(layer: Layer) -> Iterator[tuple[str, Any]]:
    """Full key and value of all that is no table or list, and of all keys; ConfigError for what is nested too deeply."""
    waiting: list[tuple[str, Any, int]] = [("", layer, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ConfigError(f"{name.partition('.')[0]} is nested too deeply: a configuration has sections with keys")
        if isinstance(value, dict):
            yield from ((f"a key of [{name}]" if name else "a key", key) for key in value)
            waiting += [(f"{name}.{key}".lstrip("."), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(name, inner, depth + 1) for inner in value]
        else:
            yield name, value


def parsed_section(section: str, kind: str, values: Mapping[str, Any], told: str) -> kinds.KindSection:
    """``[section]`` of a kind with options that are checked as those of a file are; ``told``: its name in sentences."""
    table = {"kind": kind, **values}
    _require_plain({told: table})
    model = kinds.section_of(section, kind)
    try:
        return model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        valid = {f"{told}.{name}": field for name, field in model.model_fields.items()}
        raise ConfigError(sentence(complaints(error)[0], valid, told)) from None


def fit_options(config: Config) -> FitOptions:
    """Training options: the keys of ``[training]``, with the threads of ``[parallel]``."""
    options: FitOptions = config.training.options
    return replace(options, threads=config.parallel.threads or options.threads)


def keys_of(layer: Layer) -> dict[str, FieldInfo]:
    """Every key that a configuration with the kinds of ``layer`` may hold, with what is said of it."""
    found: dict[str, FieldInfo] = {}
    for name, field in Config.model_fields.items():
        found[name] = field
        section = _model_of(name, field, layer)
        for one in kinds.loadable(name) if name == "observable" else []:
            found |= {f"{name}.{key}": inner for key, inner in one.model_fields.items()}
        if section is not None:
            found |= {f"{name}.{key}": inner for key, inner in section.model_fields.items()}
    return found


def _model_of(name: str, field: FieldInfo, layer: Layer) -> type[BaseModel] | None:
    """The model of a section, with the kind that ``layer`` gives it, or its default."""
    if name in WITH_OPTIONS:
        table, usual = layer.get(name), field.get_default(call_default_factory=True)
        given = table.get("kind") if isinstance(table, dict) else None
        kind = given or getattr(usual, "kind", None)
        return kinds.section_of(name, kind) if kind in kinds.available(name) else kinds.KindSection
    of_list = get_args(field.annotation)[:1] if get_origin(field.annotation) is tuple else ()
    model: Any = of_list[0] if of_list else field.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None
