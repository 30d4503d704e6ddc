"""Kinds that are files: the folders that list them, read without loading what they hold."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable

from hpc_holstein.errors import ConfigError, shortened

FOLDERS = {
    "lattice": "hpc_holstein.lattice",
    "hamiltonian": "hpc_holstein.hamiltonian",
    "force": "hpc_holstein.forces",
    "model": "hpc_holstein.network.models",
    "observable": "hpc_holstein.observables",
}
"""Section -> folder whose public files are its kinds."""

WITH_OPTIONS = ("hamiltonian", "force", "model")
"""Sections whose other keys are the ``Options`` of their kind."""


def available(section: str) -> list[str]:
    """Public files of the folder of ``[section]``: exactly the kinds that a user can choose."""
    folder = importlib.import_module(FOLDERS[section])
    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_"))


def require_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``; else a ConfigError that names the nearest one and the list."""
    choices = list(choices)
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"{name} = '{shortened(value)}' is not known: {hint}choose from {', '.join(choices)}")
