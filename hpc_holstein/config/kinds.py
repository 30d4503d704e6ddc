"""Choices that are files: ``kind = "exact"`` is ``forces/exact.py``, and its ``Options`` are the other keys of the section."""

from __future__ import annotations

import difflib
import importlib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpc_holstein.config.messages import sentence, unknown_key
from hpc_holstein.errors import ConfigError


def available(package: str) -> list[str]:
    """Public files of ``package``: exactly the kinds that a user can choose."""
    folder = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def require_choice(key: str, value: str, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``; else a ConfigError that names the nearest one and the list."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"{key} = '{value}' is not known: {hint}choose from {', '.join(choices)}")


def resolve(package: str, kind: str, key: str) -> ModuleType:
    """The module ``package.kind``; an unknown kind is a ConfigError that names ``key`` and the nearest valid kind."""
    return importlib.import_module(f"{package}.{require_choice(key, kind, available(package))}")


def option_names(options: type) -> list[str]:
    """Keys that an ``Options`` dataclass accepts."""
    return [field.name for field in fields(options)]


def parse_options(options: type, values: Mapping[str, Any], section: str) -> Any:
    """An instance of the dataclass ``options`` from the keys of ``[section]``, types checked strictly as TOML gives them."""
    names = option_names(options)
    for key in values:
        if key not in names:
            raise ConfigError(unknown_key(f"{section}.{key}", [f"{section}.{name}" for name in names]))
    try:
        return TypeAdapter(options).validate_json(json.dumps(dict(values), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(sentence(error, prefix=(section,))) from None
