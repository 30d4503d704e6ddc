"""Comparison of a configuration with the run that it would continue: both must agree in what decides the trajectory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc_holstein.config.builders import build_system, model_facts
from hpc_holstein.config.loading import config_of_text
from hpc_holstein.config.schema import Config
from hpc_holstein.errors import ConfigError

_SECTIONS = ("lattice", "ensemble", "dynamics", "initial")
_WITH_OPTIONS = ("hamiltonian", "force")
# a run may become longer, a model may move (its content is compared), and a committee only judges
_FREE = ("dynamics.steps", "force.model", "force.committee")


def require_same_run(config: Config, attributes: Mapping[str, Any], source: Path) -> None:
    """Raise ConfigError, naming a key and both values, where ``config`` is not that of the checkpoint ``source``.

    ``attributes``: those of the checkpoint.  Cadences, folders, ranks and limits may differ.
    """
    there, here = deciding_keys(config_of_text(attributes["config"])), deciding_keys(config)
    for key in {**there, **here}:
        if there.get(key) != here.get(key):
            raise ConfigError(
                f"{source} belongs to a run with {key} = {there.get(key)} and here it is {here.get(key)}: a run is never "
                f"overwritten, so give --set {key}={there.get(key)} to continue it, or another folder with --output"
            )
    model, given = (facts.get("model.sha256") for facts in (attributes, model_facts(config.force, build_system(config))))
    if model != given:
        raise ConfigError(
            f"{source} belongs to a run with a model of SHA-256 {str(model)[:12]} and here force.model has {str(given)[:12]}: "
            "a run is never overwritten, so give its model to continue it, or another folder with --output"
        )


def identity(config: str, attributes: Mapping[str, Any]) -> str:
    """SHA-256 of all that decides the numbers of a trajectory, from its configuration and attributes; longer runs share it."""
    keys = deciding_keys(config_of_text(config))
    text = json.dumps([keys, attributes.get("model.sha256")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def deciding_keys(config: Config) -> dict[str, Any]:
    """Full key -> value of all that decides the numbers of a trajectory, with the defaults filled in."""
    keys = {f"{name}.{key}": value for name in _SECTIONS for key, value in getattr(config, name).model_dump().items()}
    for name in _WITH_OPTIONS:
        section = getattr(config, name)
        options = {"kind": section.kind, **asdict(section.options)}
        keys |= {f"{name}.{key}": value for key, value in options.items()}
    keys |= {f"parallel.{key}": getattr(config.parallel, key) for key in ("dtype", "deterministic")}
    return {key: value for key, value in keys.items() if key not in _FREE}
