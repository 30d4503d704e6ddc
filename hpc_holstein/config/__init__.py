"""Configuration: TOML checked against a schema, presets, and the objects that it describes.

The names below are loaded when they are first used: the command line answers many questions without a configuration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_holstein.config.loading import config_of_text, fit_options, load_config, parse_assignment
    from hpc_holstein.config.presets import PRESETS, TRAINING_EXTENT
    from hpc_holstein.config.schema import Config

_PLACES = {
    "Config": "schema",
    "PRESETS": "presets",
    "TRAINING_EXTENT": "presets",
    "config_of_text": "loading",
    "fit_options": "loading",
    "load_config": "loading",
    "parse_assignment": "loading",
}

__all__ = ["PRESETS", "TRAINING_EXTENT", "Config", "config_of_text", "fit_options", "load_config", "parse_assignment"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hpc_holstein.config' has no attribute '{name}'")
    return getattr(import_module(f"hpc_holstein.config.{_PLACES[name]}"), name)
